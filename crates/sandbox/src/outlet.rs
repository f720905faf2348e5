//! Who takes the sockets that connect a sandbox with its egress proxy: the listening one that comes out of it, and those of
//! a name service, which are made in its network beside it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use sys::netns::{Made, NetnsError, Wanted};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::LaunchError;

/// The sockets of a sandbox with a name service.
#[derive(Debug)]
pub struct SandboxSockets {
    /// The sandbox's own listening socket, non-blocking.
    pub proxy: TcpListener,
    /// The sockets of the name service, or why this host cannot make them: the proxy is there all the same.
    pub names: Result<Made, NetnsError>,
}

/// Takes what comes, once.
#[derive(Debug)]
pub(crate) enum Outlet {
    /// The listening socket alone.
    Plain(oneshot::Sender<TcpListener>),
    /// The listening socket, and what is made in the sandbox's network.
    WithNames { to: oneshot::Sender<SandboxSockets>, wanted: Wanted, making: Option<Making> },
}

type Making = JoinHandle<Result<Made, NetnsError>>;

impl Outlet {
    /// Makes the further sockets in the sandbox's network, while the helper goes on.
    pub(crate) fn enter(&mut self, network: OwnedFd) -> Result<(), LaunchError> {
        match self {
            Self::WithNames { wanted, making: making @ None, .. } => {
                let wanted = wanted.clone();
                // Addresses wait for a lock of the kernel's that all networks share.
                *making = Some(tokio::task::spawn_blocking(move || sys::netns::make(network, &wanted)));
                Ok(())
            }
            _ => Err(LaunchError::SetUp("the sandbox's helper sent a network that nobody asked for".to_owned())),
        }
    }

    /// Hands the sandbox's socket on, once it is sure what it is.
    pub(crate) async fn pass(self, fd: OwnedFd) -> Result<(), LaunchError> {
        let proxy = as_listener(fd).map_err(failed("the sandbox's socket"))?;
        match self {
            Self::Plain(to) => to.send(proxy).map_err(|_| LaunchError::ProxyGone),
            Self::WithNames { making: None, .. } => {
                Err(LaunchError::SetUp("the sandbox's helper sent no network".to_owned()))
            }
            Self::WithNames { to, making: Some(making), .. } => {
                let names = making.await.map_err(std::io::Error::other).map_err(failed("the sandbox's network"))?;
                to.send(SandboxSockets { proxy, names }).map_err(|_| LaunchError::ProxyGone)
            }
        }
    }
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> LaunchError {
    let what = what.to_owned();
    move |source| LaunchError::Host { what, source }
}

/// The descriptor as a non-blocking listener, if it is a listening TCP socket at all.
fn as_listener(fd: OwnedFd) -> std::io::Result<TcpListener> {
    if !listens_on_tcp(&fd)? {
        return Err(std::io::Error::other("it is not a listening TCP socket"));
    }
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(target_os = "linux")]
fn listens_on_tcp(fd: &OwnedFd) -> std::io::Result<bool> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    Ok(sockopt::socket_domain(fd)? == AddressFamily::INET
        && sockopt::socket_type(fd)? == SocketType::STREAM
        && sockopt::socket_acceptconn(fd)?)
}

/// No sandbox sends one where there are no sandboxes.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn listens_on_tcp(_: &OwnedFd) -> std::io::Result<bool> {
    Ok(false)
}
