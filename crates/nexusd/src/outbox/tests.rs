use conduits::DirectiveToken;

use super::*;
use crate::client::{ClientSettings, Mothership};

/// No hang behind a delivery that broke off, and nobody is told that it worked.
#[tokio::test]
async fn whoever_waits_behind_a_delivery_that_panics_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let opened = Outbox::open(home.path().to_path_buf()).unwrap();
    let mothership = Mothership::new(&ClientSettings::new("http://127.0.0.1:9")).unwrap();
    let (reply, answer) = oneshot::channel();
    let delivery = |reply| Delivery {
        calls: mothership.directive("d-1".parse().unwrap(), DirectiveToken::new("a.b.c")),
        report: Report::Started(StartedRequest::default()),
        reply: Some(reply),
    };
    let first = delivery(reply);
    let mut lines = Lines::default();
    let begun = lines.take(first).expect("nobody is before it");
    let id = begun.calls.id().clone();
    lines.begin(id.clone(), async move {
        let _begun = begun;
        panic!("for the test");
    });
    let (reply, _second) = oneshot::channel();
    assert!(lines.take(delivery(reply)).is_none(), "it waits for the first");
    let done = lines.under_way.join_next_with_id().await.unwrap();
    assert!(done.is_err());
    assert!(opened.task.settled(done, &mut lines).is_some(), "nobody goes on");
    assert!(answer.await.is_err(), "the first was told of a success");
    let (reply, _third) = oneshot::channel();
    lines.begin(id, async {});
    assert!(lines.take(delivery(reply)).is_none());
    let done = lines.under_way.join_next_with_id().await.unwrap();
    assert!(opened.task.settled(done, &mut lines).is_some());
}
