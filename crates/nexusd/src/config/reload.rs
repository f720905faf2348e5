//! What a reload can take over, and what waits for a restart. Pure.

use super::Config;

impl Config {
    /// The top-level keys whose values differ in `fresh` and that only a restart takes over: all but `log_level`, `labels` and
    /// `tls`.
    #[must_use]
    pub fn waiting_for_a_restart(&self, fresh: &Self) -> Vec<&'static str> {
        let mut waiting = Vec::new();
        macro_rules! compare {
            ($($key:ident),*) => {{
                // Named in full, so that a key added later cannot be forgotten here.
                let Self { log_level: _, labels: _, tls: _, warnings: _, $($key),* } = self;
                $(if *$key != fresh.$key { waiting.push(stringify!($key)); })*
            }};
        }
        compare!(
            server_url,
            territory_id,
            name,
            work_dir,
            supported_sandbox_profiles,
            max_concurrent_directives,
            proxy_url,
            poll,
            log,
            log_overflow,
            heartbeat,
            territory_heartbeat,
            observability,
            min_free_bytes,
            sandbox_user,
            operator,
            facility,
            log_format,
            shutdown_timeout,
            untrusted_driver,
            bwrap,
            rootfs,
            container,
            firecracker,
            egress,
            limits,
            retention,
            debug_tape
        );
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LogLevel, Platform};

    #[test]
    fn only_what_cannot_be_reloaded_waits() {
        let config = Config::built_in(Platform::Linux, &|_| None).unwrap();
        assert_eq!(config.waiting_for_a_restart(&config), [""; 0]);
        let mut fresh = config.clone();
        fresh.log_level = LogLevel::Debug;
        fresh.labels.insert("a".into(), "b".into());
        fresh.tls.insecure_skip_verify = true;
        assert_eq!(config.waiting_for_a_restart(&fresh), [""; 0]);
        fresh.max_concurrent_directives += 1;
        fresh.heartbeat.interval *= 2;
        assert_eq!(config.waiting_for_a_restart(&fresh), ["max_concurrent_directives", "heartbeat"]);
    }
}
