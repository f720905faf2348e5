//! Turns at something that strangers may make this process do: so many in all, and of those a share for each address.
//!
//! Whoever has its turn may take as long as a request may. Without the share, one that is slow on purpose has them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::rate::network;

/// The turns.
#[derive(Debug)]
pub struct Turns {
    all: Semaphore,
    share: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn; it ends when this is dropped. The fields are in the order in which they are let go.
#[derive(Debug)]
pub struct Turn<'t> {
    _all: SemaphorePermit<'t>,
    _own: OwnedSemaphorePermit,
    _share: Share<'t>,
}

/// An address that has turns or waits for one.
#[derive(Debug)]
struct Share<'t> {
    turns: &'t Turns,
    address: IpAddr,
    semaphore: Arc<Semaphore>,
}

impl Turns {
    /// `all` of them at once, and `share` of one address.
    #[must_use]
    pub fn new(all: usize, share: usize) -> Self {
        Self { all: Semaphore::new(all), share, addresses: Mutex::default() }
    }

    /// Waits for a turn of `address`. None where there are no more.
    pub async fn take(&self, address: IpAddr) -> Option<Turn<'_>> {
        let share = self.share_of(network(address));
        // Its own first: who waits for that takes nobody else's place.
        let own = Arc::clone(&share.semaphore).acquire_owned().await.ok()?;
        let all = self.all.acquire().await.ok()?;
        Some(Turn { _all: all, _own: own, _share: share })
    }

    fn share_of(&self, address: IpAddr) -> Share<'_> {
        let mut addresses = self.addresses();
        let semaphore = addresses.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.share)));
        Share { turns: self, address, semaphore: Arc::clone(semaphore) }
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut addresses = self.turns.addresses();
        // The table's and this one: nobody else of the address is here. New ones come by way of the table, which is locked.
        if Arc::strong_count(&self.semaphore) == 2 {
            addresses.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_has_its_share_and_the_others_theirs() {
        let turns = Turns::new(3, 2);
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
        let soon = async |address| timeout(Duration::from_secs(1), turns.take(address)).await.ok().flatten();
        let (first, _second) = (soon(one).await.unwrap(), soon(one).await.unwrap());
        assert!(soon(one).await.is_none());
        let third = soon(other).await.unwrap();
        assert!(soon(other).await.is_none(), "there are no more");
        drop(first);
        drop(third);
        assert_eq!(turns.addresses().len(), 1, "who has no turn is forgotten");
        assert!(soon(one).await.is_some());
    }
}
