//! Servers that say as much of a protocol as its client wants to hear.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that serves one connection after the other until it is dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(listener: TcpListener, serve: fn(TcpStream) -> std::io::Result<()>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                // What a client breaks off is the client's failure, and its test says so.
                serve(stream).ok();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A database that lets everybody in and answers every query with one row, 42.
pub(crate) fn postgres(listener: TcpListener) -> Server {
    Server::start(listener, |mut stream| {
        // The first message has no kind: length and parameters.
        read_body(&mut stream)?;
        stream.write_all(b"R\0\0\0\x08\0\0\0\0")?;
        stream.write_all(b"S\0\0\0\x18server_version\x0015.1\0Z\0\0\0\x05I")?;
        loop {
            let mut kind = [0];
            stream.read_exact(&mut kind)?;
            read_body(&mut stream)?;
            if kind == *b"X" {
                return Ok(());
            }
            // One column of no table and of type integer, one row, what was done, ready.
            stream.write_all(b"T\0\0\0\x1f\0\x01number\0")?;
            stream.write_all(b"\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")?;
            stream.write_all(b"D\0\0\0\x0c\0\x01\0\0\0\x0242C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I")?;
        }
    })
}

fn read_body(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(0).clamp(4, 65_536);
    stream.read_exact(&mut vec![0; length - 4])
}
