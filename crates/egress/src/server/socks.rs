//! SOCKS5 on a client connection.

use std::mem;

use tokio::time::Instant;

use super::attempt::{Attempt, Method};
use super::refuse::Told;
use super::session::Session;
use super::tunnel;
use crate::policy::reason::Reason;
use crate::stream::Stream;
use crate::wire::host::Destination;
use crate::wire::socks::{self, Reply, SocksError};

/// The client went away; there is nobody to tell.
struct Gone;

impl Session {
    pub(super) async fn socks5(&mut self, deadline: Instant) {
        let handshake = tokio::time::timeout_at(deadline, self.socks5_handshake());
        match handshake.await {
            Ok(Ok(Some(to))) => self.socks5_connect(to).await,
            Ok(Ok(None)) => {}
            // No reply says that it took too long; an attempt it was all the same.
            Ok(Err(Gone)) | Err(_) => self.account_cut_off(Method::Socks5),
        }
    }

    /// Everything up to the request; `None` once the client has been refused.
    async fn socks5_handshake(&mut self) -> Result<Option<Destination>, Gone> {
        let offered = loop {
            match socks::greeting(&self.buffer) {
                Ok(Some((methods, used))) => {
                    let wanted = self.wanted_method();
                    let is_offered = methods.contains(&wanted);
                    self.buffer.drain(..used);
                    break is_offered.then_some(wanted);
                }
                Ok(None) => self.more().await?,
                Err(error) => return Ok(self.refuse_socks(&error, &[socks::VERSION, socks::METHOD_REFUSED]).await),
            }
        };
        let Some(method) = offered else {
            let error = SocksError::Malformed("the authentication method that is needed was not offered");
            return Ok(self.refuse_socks(&error, &[socks::VERSION, socks::METHOD_REFUSED]).await);
        };
        self.client.write_all(&[socks::VERSION, method]).await.map_err(|_| Gone)?;
        if method == socks::METHOD_PASSWORD && !self.authenticate().await? {
            return Ok(None);
        }
        loop {
            match socks::request(&self.buffer) {
                Ok(Some((to, used))) => {
                    self.buffer.drain(..used);
                    return Ok(Some(to));
                }
                Ok(None) => self.more().await?,
                Err(error) => return Ok(self.refuse_socks(&error, &socks::reply_to(&error).message()).await),
            }
        }
    }

    fn wanted_method(&self) -> u8 {
        if self.shared.credential.is_some() { socks::METHOD_PASSWORD } else { socks::METHOD_NONE }
    }

    async fn authenticate(&mut self) -> Result<bool, Gone> {
        loop {
            match socks::password(&self.buffer) {
                Ok(Some((user, password, used))) => {
                    let admitted = self.shared.credential.as_ref().is_some_and(|known| known.admits(user, password));
                    self.buffer.drain(..used);
                    if admitted {
                        self.client.write_all(&[1, 0]).await.map_err(|_| Gone)?;
                        return Ok(true);
                    }
                    drop(Attempt::unreadable(&self.shared, Method::Socks5, "", Reason::Other));
                    self.refuse(&[1, 1]).await;
                    return Ok(false);
                }
                Ok(None) => self.more().await?,
                Err(error) => {
                    self.refuse_socks(&error, &[1, 1]).await;
                    return Ok(false);
                }
            }
        }
    }

    async fn socks5_connect(&mut self, to: Destination) {
        let shared = std::sync::Arc::clone(&self.shared);
        let mut attempt = Attempt::at(&shared, Method::Socks5, &to);
        match Box::pin(self.open(&mut attempt, &to)).await {
            Err(told) => {
                drop(attempt);
                self.refuse(&told.reply.message()).await;
            }
            Ok(origin) => {
                if self.tell(&Reply::Succeeded.message()).await {
                    let early = mem::take(&mut self.buffer);
                    tunnel::carry(&shared, &mut attempt, &to, (&self.client, early), &origin).await;
                }
            }
        }
    }

    /// Decides by name, dials, and notes both on the attempt.
    pub(super) async fn open(&self, attempt: &mut Attempt, to: &Destination) -> Result<Stream, Told> {
        if let Err(refusal) = self.shared.policy.decide(to, Instant::now()) {
            attempt.deny(&refusal);
            return Err(Told::denied(refusal));
        }
        attempt.allowed();
        match self.shared.dialer.dial(to).await {
            Ok(dialled) => {
                attempt.connected(dialled.address);
                Ok(Stream::tcp(dialled.stream))
            }
            Err(error) => {
                let told = Told::unreached(&error);
                if told.is_denial() {
                    attempt.deny(&told.refusal);
                }
                Err(told)
            }
        }
    }

    async fn refuse_socks(&mut self, error: &SocksError, answer: &[u8]) -> Option<Destination> {
        let asked = match error {
            SocksError::AddressType { asked, .. } | SocksError::Destination { asked, .. } => asked.as_str(),
            SocksError::Malformed(_) | SocksError::Command(_) => "",
        };
        drop(Attempt::unreadable(&self.shared, Method::Socks5, asked, Reason::InvalidDestination));
        self.refuse(answer).await;
        None
    }

    async fn more(&mut self) -> Result<(), Gone> {
        match self.fill().await {
            Ok(1..) => Ok(()),
            _ => Err(Gone),
        }
    }
}
