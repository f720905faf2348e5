//! What a start costs, against plain bubblewrap with the same namespaces. Run by hand, in release:
//! `cargo test --release -p sandbox --test it speed -- --ignored --nocapture`

use std::time::{Duration, Instant};

use sandbox::{NetworkPath, ProxyAttachment};
use tokio::sync::{oneshot, watch};

use crate::bed::{Bed, Run};

const ROUNDS: usize = 200;

const PLAIN: &str = "bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
    --proc /proc --dev /dev --tmpfs /tmp --unshare-all --die-with-parent /bin/true";

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The times of one kind of run, by phase.
#[derive(Default)]
struct Phases {
    launched: Vec<Duration>,
    ready: Vec<Duration>,
    ended: Vec<Duration>,
}

async fn measure(bed: &Bed, mut run: Run, phases: &mut Phases) {
    let (sender, receiver) = oneshot::channel();
    if run.driver == sandbox::Driver::Bwrap {
        run.network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender)));
    }
    let begin = Instant::now();
    let (mut handle, _stdout, _stderr) = bed.start(run).await.unwrap();
    phases.launched.push(begin.elapsed());
    handle.ready().await.unwrap();
    phases.ready.push(begin.elapsed());
    handle.release().unwrap();
    let (_keep, stop) = watch::channel(None);
    assert_eq!(handle.wait(stop).await.code, 0);
    phases.ended.push(begin.elapsed());
    drop(receiver);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_start_costs_little_more_than_plain_bubblewrap() {
    let bed = Bed::new();
    let (mut plain, mut ours, mut host) = (Vec::new(), Phases::default(), Phases::default());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut words = PLAIN.split_whitespace();
        assert!(std::process::Command::new(words.next().unwrap()).args(words).status().unwrap().success());
        plain.push(begin.elapsed());
        measure(&bed, Run { shell: "/bin/sh".into(), ..Run::sh("true") }, &mut ours).await;
        measure(&bed, Run { shell: "/bin/sh".into(), ..Run::host("true") }, &mut host).await;
    }
    println!("median of {ROUNDS}: plain bwrap {:?}", median(plain));
    for (name, phases) in [("bwrap", ours), ("host", host)] {
        let (launched, ready, ended) = (median(phases.launched), median(phases.ready), median(phases.ended));
        println!("{name} driver: launched {launched:?}, ready {ready:?}, ended {ended:?}");
    }
}
