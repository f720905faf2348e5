//! The host's own addresses and gateways, read from `/proc/net`, for [`OperatorRules::own_addresses`].
//!
//! Read anew for each directive: addresses come and go. Parsing is pure; a file of IPv6 that is absent has no addresses,
//! a line that cannot be read is skipped.
//!
//! [`OperatorRules::own_addresses`]: crate::OperatorRules::own_addresses

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Most hosts' files are shorter.
const USUAL_BYTES: usize = 16 * 1024;

/// Reads the addresses of all interfaces, and the gateways of all routes; `proc_net` is `/proc/net`.
///
/// # Errors
/// A file cannot be read; one of IPv4 is there on every host.
pub fn read(proc_net: &Path) -> io::Result<Vec<IpAddr>> {
    let mut found = BTreeSet::new();
    found.extend(local_v4(&text(proc_net, "fib_trie", Absent::IsAnError)?));
    found.extend(local_v6(&text(proc_net, "if_inet6", Absent::IsEmpty)?));
    found.extend(gateways_v4(&text(proc_net, "route", Absent::IsAnError)?));
    found.extend(gateways_v6(&text(proc_net, "ipv6_route", Absent::IsEmpty)?));
    found.retain(|address| !address.is_unspecified());
    Ok(found.into_iter().collect())
}

/// What a missing file means.
#[derive(Clone, Copy)]
enum Absent {
    /// The host has no IPv6.
    IsEmpty,
    IsAnError,
}

fn text(proc_net: &Path, name: &str, absent: Absent) -> io::Result<String> {
    // The kernel does not say how long such a file is: with room from the start it is read in one go.
    let mut text = String::with_capacity(USUAL_BYTES);
    match File::open(proc_net.join(name)).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && matches!(absent, Absent::IsEmpty) => Ok(text),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", proc_net.join(name).display()))),
    }
}

/// `fib_trie`: an address line is followed by a line `/32 host LOCAL`.
fn local_v4(text: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in text.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            addresses.extend(last.map(IpAddr::V4));
        }
    }
    addresses
}

/// `if_inet6`: 32 hexadecimal digits, then index, prefix length, scope, flags and name.
fn local_v6(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(|line| hex_v6(line.split_whitespace().next()?)).collect()
}

/// `route`: the third column is the gateway, in the machine's byte order.
fn gateways_v4(text: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let bits = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bits.to_ne_bytes())))
    };
    text.lines().skip(1).filter_map(gateway).collect()
}

/// `ipv6_route`: the fifth column is the next hop.
fn gateways_v6(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(|line| hex_v6(line.split_whitespace().nth(4)?)).collect()
}

fn hex_v6(digits: &str) -> Option<IpAddr> {
    let is_plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = is_plain.then(|| u128::from_str_radix(digits, 16).ok())??;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host without IPv6 has no addresses of that kind; one whose IPv4 cannot be read is not known.
    #[test]
    fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("fib_trie"), "{error}");
        for name in ["fib_trie", "route"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(read(dir.path()).unwrap(), Vec::<IpAddr>::new());
        std::fs::create_dir(dir.path().join("if_inet6")).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("if_inet6"));
    }

    #[test]
    fn each_file_is_read() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [ip("10.1.2.3")]);
        let inet6 = "fe80000000000000021122fffe334455 02 40 20 80     eth0\njunk 1 2\n";
        assert_eq!(local_v6(inet6), [ip("fe80::211:22ff:fe33:4455")]);
        let route = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t{:08X}\t0003\neth0\tzz\n",
            u32::from_ne_bytes([10, 1, 2, 1])
        );
        assert_eq!(gateways_v4(&route), [ip("10.1.2.1")]);
        let hop = "fe800000000000000000000000000001";
        let zero = "0".repeat(32);
        assert_eq!(gateways_v6(&format!("{zero} 00 {zero} 00 {hop} 00000400 0 0 3 eth0\n")), [ip("fe80::1")]);
    }

    #[test]
    fn this_machine_has_loopback() {
        let own = read(Path::new("/proc/net")).unwrap();
        assert!(own.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{own:?}");
    }
}
