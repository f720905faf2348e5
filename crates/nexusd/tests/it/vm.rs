//! What only a modern host shows: cgroup v2 alone, delegation, settings that are switched off and on. These tests change
//! the machine they run on, so they run in one of their own (`make test-vm`) and nowhere else.

mod delegation;
mod machine;
mod memory;
mod quota;
mod root;
mod userns;
