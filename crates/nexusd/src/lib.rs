//! The daemon: pulls directives from a mothership, runs each in the sandbox that was asked for, ships its log and
//! reports its end.
//!
//! Begin reading at [`daemon`], then follow one directive down [`directive`]. [`engine`] holds what is made once;
//! [`client`], [`logs`] and [`outbox`] are the way back to the mothership; [`config`], [`cli`], [`doctor`], [`enroll`],
//! [`credentials`], [`control`] and [`observe`] are what an operator touches.

pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod credentials;
pub mod daemon;
pub mod directive;
pub mod doctor;
pub mod engine;
pub mod enroll;
pub mod facility;
pub mod logs;
pub mod observe;
pub mod outbox;
pub mod poll;
pub mod rootfs;
pub mod run;
pub mod signals;

/// The version of this build, as the protocol carries it.
pub const VERSION: &str = cli::NEXUS_VERSION;
