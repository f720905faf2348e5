//! How the helper of a container comes to its descriptors where the engine's client hands none through: it connects to a
//! socket of the daemon's that is mounted for this one container, and gets them over it (unix(7), SCM_RIGHTS).

use alloc::format;

use super::sys::Errno;
use super::{CONTROL, STDERR, STDOUT, complain, file, socket};

/// Where each goes, in the order in which they come; the last is there where the run has an input.
const PLACES: [i32; socket::MOST_RECEIVED] = [CONTROL, STDOUT, STDERR, 0];

/// From here on nothing is that is still to be put somewhere else.
const BEYOND: i32 = 10;

/// Connects, and puts what comes where [`super::supervise`] looks for it; `false` when there is nobody.
pub(crate) fn join(path: &[u8]) -> bool {
    match receive(path) {
        Ok(()) => true,
        Err(error) => {
            complain(&format!(
                "nexus: the daemon cannot be reached at {}: {error}",
                alloc::string::String::from_utf8_lossy(path)
            ));
            false
        }
    }
}

fn receive(path: &[u8]) -> Result<(), Errno> {
    let connection = socket::connect_at(path)?;
    let (received, count) = socket::receive_descriptors(connection.0)?;
    // Its own descriptor may be one of the places.
    drop(connection);
    if count < PLACES.len() - 1 {
        return Err(Errno::EBADF);
    }
    let received = received.get(..count).unwrap_or_default();
    // First out of the way: one may lie where another goes.
    let mut aside = [-1; socket::MOST_RECEIVED];
    for (place, fd) in aside.iter_mut().zip(received) {
        *place = file::duplicate_from(*fd, BEYOND)?;
    }
    for (fd, place) in aside.iter().zip(PLACES).take(count) {
        file::duplicate_to(*fd, place)?;
    }
    // What lies aside is closed with everything else that the supervisor does not know.
    Ok(())
}
