//! The system's own name servers, followed: a host that moves to another network writes them anew.
//!
//! Promises: the files are looked at no more often than every few seconds, by whoever looks a name up then; what cannot be
//! read, or is being written, changes nothing. A look-up under way goes on with what it began with.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::time::Instant;

use super::ResolverError;

/// The pause between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Makes a resolver of what the files say.
type Read = Box<dyn Fn() -> Result<TokioResolver, ResolverError> + Send + Sync>;

/// The resolver of the files as they are now.
pub(super) struct System {
    files: Vec<PathBuf>,
    read: Read,
    look_every: Duration,
    state: Mutex<State>,
}

struct State {
    resolver: TokioResolver,
    generation: u64,
    seen: Vec<Option<Mark>>,
    looked: Instant,
}

/// What differs once a file has been written anew or another one has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl System {
    pub(super) fn new(files: Vec<PathBuf>, read: Read) -> Result<Self, ResolverError> {
        // Before they are read: what is written meanwhile is seen at the next look.
        let seen = marks(&files);
        let state = State { resolver: read()?, generation: 0, seen, looked: Instant::now() };
        Ok(Self { files, read, look_every: LOOK_EVERY, state: Mutex::new(state) })
    }

    /// The resolver to ask now, and a number that is another one for each. Looks at the files, which are the host's own and
    /// small, where that was not done lately.
    pub(super) fn current(&self, now: Instant) -> (TokioResolver, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= self.look_every {
            state.looked = now;
            let seen = marks(&self.files);
            if seen != state.seen {
                match (self.read)() {
                    Ok(resolver) => {
                        state.resolver = resolver;
                        state.generation += 1;
                        state.seen = seen;
                        tracing::info!("the system's name servers have changed and are read anew");
                    }
                    // Looked at again, for it may be half written.
                    Err(error) => tracing::debug!(%error, "the system's name servers stay what they were"),
                }
            }
        }
        (state.resolver.clone(), state.generation)
    }
}

fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    let mark = |file: &PathBuf| {
        let found = fs::metadata(file).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Mark { device: found.dev(), inode: found.ino(), bytes: found.size(), modified })
    };
    files.iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::net::UdpSocket;
    use tokio::task::JoinSet;

    use super::super::{LookupError, Resolver};
    use super::*;

    /// Answers every question about an IPv4 address with this one, and every other one with nothing.
    async fn name_server(serving: &mut JoinSet<()>, address: Ipv4Addr) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        serving.spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
                let query = &packet[..length];
                let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
                let is_v4 = query[end - 4..end - 2] == [0, 1];
                let mut reply = [&query[..2], &[0x85, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]].concat();
                reply.extend(&query[12..end]);
                if is_v4 {
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    reply.extend(address.octets());
                }
                socket.send_to(&reply, peer).await.unwrap();
            }
        });
        at
    }

    /// The resolver of a file that holds the address of a name server.
    fn following(file: &Path, look_every: Duration, reads: &Arc<AtomicUsize>) -> Resolver {
        let (path, reads) = (file.to_owned(), Arc::clone(reads));
        let read = move || {
            reads.fetch_add(1, Relaxed);
            let text = fs::read_to_string(&path).map_err(|error| ResolverError::System(error.into()))?;
            let server = text.trim().parse().map_err(|_| ResolverError::System("no name server".into()))?;
            Resolver::asking(&[server])
        };
        let system = System::new(vec![file.to_owned()], Box::new(read)).unwrap();
        Resolver::followed(System { look_every, ..system })
    }

    async fn found(resolver: &Resolver) -> Result<String, LookupError> {
        resolver.lookup("a.test").await.map(|answer| answer.addresses[0].to_string())
    }

    #[tokio::test]
    async fn name_servers_that_are_written_anew_are_asked() {
        let (dir, mut serving) = (tempfile::tempdir().unwrap(), JoinSet::new());
        let file = dir.path().join("resolv.conf");
        let (first, second) = (Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2));
        let (one, two) = (name_server(&mut serving, first).await, name_server(&mut serving, second).await);
        fs::write(&file, one.to_string()).unwrap();
        let reads = Arc::default();
        let resolver = following(&file, Duration::ZERO, &reads);
        assert_eq!(found(&resolver).await.unwrap(), "1.1.1.1");
        assert_eq!(found(&resolver).await.unwrap(), "1.1.1.1");
        assert_eq!(reads.load(Relaxed), 1, "not read again where nothing has changed");
        // Another file in its place, as a link that is moved does it.
        fs::write(dir.path().join("new"), two.to_string()).unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        assert_eq!(found(&resolver.clone()).await.unwrap(), "2.2.2.2");
        // Half written, then gone: what was known stays, and is looked for again.
        for broken in [Some("junk"), Some(""), None] {
            match broken {
                Some(text) => fs::write(&file, text).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            assert_eq!(found(&resolver).await.unwrap(), "2.2.2.2", "{broken:?}");
        }
        fs::write(&file, one.to_string()).unwrap();
        assert_eq!(found(&resolver).await.unwrap(), "1.1.1.1");
    }

    /// A server that nobody can ask any more is no reason to fail where there is another by now.
    #[tokio::test]
    async fn a_look_up_that_failed_is_made_again_with_the_new_name_servers() {
        let (dir, mut serving) = (tempfile::tempdir().unwrap(), JoinSet::new());
        let file = dir.path().join("resolv.conf");
        // Takes questions and never answers.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        fs::write(&file, silent.local_addr().unwrap().to_string()).unwrap();
        let server = name_server(&mut serving, Ipv4Addr::new(2, 2, 2, 2)).await;
        let resolver = following(&file, Duration::ZERO, &Arc::default());
        let moved = async {
            silent.recv_from(&mut [0; 512]).await.unwrap();
            fs::write(&file, server.to_string()).unwrap();
        };
        let (found, ()) = tokio::join!(found(&resolver), moved);
        assert_eq!(found.unwrap(), "2.2.2.2");
    }

    #[tokio::test]
    async fn the_files_are_looked_at_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        fs::write(&file, "127.0.0.1:1").unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&reads);
        let read = move || {
            counter.fetch_add(1, Relaxed);
            Resolver::asking(&["127.0.0.1:1".parse().unwrap()])
        };
        let system = System::new(vec![file.clone()], Box::new(read)).unwrap();
        let began = system.state.lock().unwrap().looked;
        fs::write(&file, "127.0.0.1:22").unwrap();
        for (at, want) in [(LOOK_EVERY / 2, 0), (LOOK_EVERY, 1), (LOOK_EVERY * 2, 1)] {
            for _ in 0..1000 {
                assert_eq!(system.current(began + at).1, want, "{at:?}");
            }
        }
        assert_eq!(reads.load(Relaxed), 2, "the first and the new one");
    }
}
