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

/// The kinds of runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bwrap,
    /// With the sockets of a name service for these many ports.
    WithNames(u16),
    Host,
}

async fn measure(bed: &Bed, kind: Kind, phases: &mut Phases) {
    let (sender, receiver) = oneshot::channel();
    let (to, sockets) = oneshot::channel();
    let run = if kind == Kind::Host { Run::host("true") } else { Run::sh("true") };
    let mut run = Run { shell: "/bin/sh".into(), ..run };
    match kind {
        Kind::Host => {}
        Kind::Bwrap => run.network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender))),
        Kind::WithNames(ports) => {
            let wanted = crate::network::wanted((1..=ports).map(|port| 1000 + port).collect());
            run.network = Some(NetworkPath::Proxied(ProxyAttachment::ListenerWithNames { to, wanted }));
        }
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
    drop((receiver, sockets));
}

#[tokio::test]
#[ignore = "a measurement"]
async fn a_start_costs_little_more_than_plain_bubblewrap() {
    let bed = Bed::new();
    let kinds = [
        ("bwrap driver", Kind::Bwrap),
        ("with names for 4 ports", Kind::WithNames(4)),
        ("with names for 64 ports", Kind::WithNames(64)),
        ("host driver", Kind::Host),
    ];
    let mut plain = Vec::new();
    let mut measured = kinds.map(|_| Phases::default());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let mut words = PLAIN.split_whitespace();
        assert!(std::process::Command::new(words.next().unwrap()).args(words).status().unwrap().success());
        plain.push(begin.elapsed());
        for ((_, kind), phases) in kinds.iter().zip(&mut measured) {
            measure(&bed, *kind, phases).await;
        }
    }
    println!("median of {ROUNDS}: plain bwrap {:?}", median(plain));
    for ((name, _), phases) in kinds.iter().zip(measured) {
        let (launched, ready, ended) = (median(phases.launched), median(phases.ready), median(phases.ended));
        println!("{name}: launched {launched:?}, ready {ready:?}, ended {ended:?}");
    }
}
