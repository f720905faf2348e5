//! What holds of every container, whichever engine makes it.

use sandbox::{Driver, LaunchError, NetworkPath, ProxyAttachment, Selected, WorkspaceAccess, WorkspaceCwd};
use tokio::sync::{oneshot, watch};

use crate::bed::{Bed, Run, processes_with, text, until};

/// A script in a container of a name that no other run has.
pub(crate) fn sh(script: &str) -> Run {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = Some(format!("test-{}-{number}", std::process::id()));
    Run { driver: Driver::Container, name, ..Run::sh(script) }
}

/// Of the workspace there is what the directive may see, and its folder beneath; a link leads nowhere.
pub(crate) async fn the_workspace_is_narrowed(bed: &Bed) {
    bed.sh("mkdir src out; echo kept > src/a; echo hidden > b").await;
    let only = |text: &str, writable| Selected { path: WorkspaceCwd::parse(text).unwrap(), writable };
    let access = WorkspaceAccess::Only(vec![only("src", false), only("out", true)]);
    let script =
        "ls; cat src/a; (echo x > src/a) 2>/dev/null || echo no; (echo x > c) 2>/dev/null || echo no; echo x > out/y";
    let outcome = bed.run(Run { access, ..sh(script) }).await;
    assert_eq!(outcome.stdout, "out\nsrc\nkept\nno\nno\n", "{}", outcome.stderr);
    assert_eq!(bed.sh("cat out/y").await, "x\n");
    let outcome = bed.run(Run { access: WorkspaceAccess::ReadOnly, ..sh("cat b; (> c) 2>/dev/null || echo no") }).await;
    assert_eq!(outcome.stdout, "hidden\nno\n");
    let outcome = bed.run(Run { cwd: "src".into(), ..sh("pwd") }).await;
    assert_eq!(outcome.stdout, "/workspace/src\n");
    bed.sh("ln -s / up").await;
    assert!(matches!(bed.start(Run { cwd: "up/etc".into(), ..sh("pwd") }).await, Err(LaunchError::Cwd { .. })));
}

/// A connection to the proxy's place comes out at the daemon.
pub(crate) async fn the_proxy_is_reached(bed: &Bed) {
    let (sender, receiver) = oneshot::channel();
    let network = Some(NetworkPath::Proxied(ProxyAttachment::Listener(sender)));
    let (mut handle, stdout, _stderr) =
        bed.start(Run { network, ..sh("exec 3<>/dev/tcp/127.0.0.1/9080; cat <&3") }).await.unwrap();
    handle.ready().await.unwrap();
    let listener = tokio::net::TcpListener::from_std(receiver.await.unwrap()).unwrap();
    handle.release().unwrap();
    let (mut connection, _) = listener.accept().await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut connection, b"hello\n").await.unwrap();
    drop(connection);
    let (_keep, stop) = watch::channel(None);
    assert_eq!(handle.wait(stop).await.code, 0);
    assert_eq!(text(stdout).await, "hello\n");
}

/// Nothing that has this mark on its command line outlives the handle.
pub(crate) async fn who_is_given_up_ends(bed: &Bed, marker: &str) {
    // Before anybody came or while it is set up, before it is released, and while it runs.
    for moment in 0..3 {
        let (mut handle, _stdout, _stderr) = bed.start(sh(&format!("sleep {marker}"))).await.unwrap();
        if moment > 0 {
            handle.ready().await.unwrap();
        }
        if moment > 1 {
            handle.release().unwrap();
            until("the command runs", || !processes_with(marker).is_empty()).await;
        }
        drop(handle);
        until("the command is gone", || processes_with(marker).is_empty()).await;
    }
}
