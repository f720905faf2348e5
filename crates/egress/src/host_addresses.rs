//! The host's own addresses and gateways, read from `/proc/net`, for [`OperatorRules::own_addresses`].
//!
//! Whole ranges, too: what is routed to the host itself (`ip route add local 198.51.100.0/24 dev lo`) reaches its services
//! by each address. Read anew for each directive: addresses come and go. Parsing is pure; a file of IPv6 that is absent has
//! no addresses, a line that cannot be read is skipped.
//!
//! [`OperatorRules::own_addresses`]: crate::OperatorRules::own_addresses

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};

/// Most hosts' files are shorter.
const USUAL_BYTES: usize = 16 * 1024;

/// The flags of an IPv6 route that ends at the host itself: `RTF_LOCAL`, and `RTF_ANYCAST`, which it answers at as well.
const ENDS_HERE: u32 = 0x8000_0000 | 0x0010_0000;

/// Reads the addresses of all interfaces, the ranges that are routed to the host itself, and the gateways of all routes;
/// `proc_net` is `/proc/net`.
///
/// # Errors
/// A file cannot be read; one of IPv4 is there on every host.
pub fn read(proc_net: &Path) -> io::Result<Vec<IpNet>> {
    let routes = text(proc_net, "ipv6_route", Absent::IsEmpty)?;
    let mut found = BTreeSet::new();
    found.extend(local_v4(&text(proc_net, "fib_trie", Absent::IsAnError)?));
    found.extend(local_v6(&text(proc_net, "if_inet6", Absent::IsEmpty)?).map(IpNet::from));
    found.extend(ranges_v6(&routes));
    found.extend(gateways_v4(&text(proc_net, "route", Absent::IsAnError)?).map(IpNet::from));
    found.extend(gateways_v6(&routes).map(IpNet::from));
    found.retain(|range| !range.addr().is_unspecified() || range.prefix_len() == 0);
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

/// `fib_trie`: an address line is followed by lines such as `/32 host LOCAL`, one for each route that begins there. All of
/// one table come after its name.
fn local_v4(text: &str) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    let mut last = None;
    let mut is_for_all = true;
    for line in text.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if let Some(route) = line.trim_start().strip_prefix('/') {
            let mut words = route.split_whitespace();
            let prefix = words.next().and_then(|prefix| prefix.parse().ok());
            let is_local = words.nth(1) == Some("LOCAL");
            // A table of its own that takes everything is a transparent proxy's: only marked packets are looked up there.
            let counts = is_local && (is_for_all || prefix != Some(0));
            let range = last.zip(prefix).and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
            ranges.extend(range.filter(|_| counts).map(IpNet::V4));
        } else if !line.starts_with(' ') {
            is_for_all = matches!(line.trim_end(), "Main:" | "Local:");
        }
    }
    ranges
}

/// `if_inet6`: 32 hexadecimal digits, then index, prefix length, scope, flags and name.
fn local_v6(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| hex_v6(line.split_whitespace().next()?))
}

/// `ipv6_route`: the first two columns are the destination, the ninth its flags. The tables are not told apart, so a route
/// of everything is taken for a transparent proxy's.
fn ranges_v6(text: &str) -> impl Iterator<Item = IpNet> {
    text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let prefix = u8::from_str_radix(words.get(1)?, 16).ok().filter(|prefix| *prefix > 0)?;
        let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
        (flags & ENDS_HERE != 0).then(|| IpNet::new(hex_v6(words[0])?, prefix).ok())?
    })
}

/// `route`: the third column is the gateway, in the machine's byte order.
fn gateways_v4(text: &str) -> impl Iterator<Item = IpAddr> {
    let gateway = |line: &str| {
        let bits = u32::from_str_radix(line.split_whitespace().nth(2)?, 16).ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bits.to_ne_bytes())))
    };
    text.lines().skip(1).filter_map(gateway)
}

/// `ipv6_route`: the fifth column is the next hop.
fn gateways_v6(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| hex_v6(line.split_whitespace().nth(4)?))
}

fn hex_v6(digits: &str) -> Option<IpAddr> {
    let is_plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = is_plain.then(|| u128::from_str_radix(digits, 16).ok())??;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// A host without IPv6 has no addresses of that kind; one whose IPv4 cannot be read is not known.
    #[test]
    fn what_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("fib_trie"), "{error}");
        for name in ["fib_trie", "route"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(read(dir.path()).unwrap(), Vec::<IpNet>::new());
        std::fs::create_dir(dir.path().join("if_inet6")).unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("if_inet6"));
    }

    #[test]
    fn each_file_is_read() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), [net("10.1.2.3/32")]);
        let inet6 = "fe80000000000000021122fffe334455 02 40 20 80     eth0\njunk 1 2\n";
        assert_eq!(local_v6(inet6).collect::<Vec<_>>(), [ip("fe80::211:22ff:fe33:4455")]);
        let route = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t{:08X}\t0003\neth0\tzz\n",
            u32::from_ne_bytes([10, 1, 2, 1])
        );
        assert_eq!(gateways_v4(&route).collect::<Vec<_>>(), [ip("10.1.2.1")]);
        let hop = "fe800000000000000000000000000001";
        let zero = "0".repeat(32);
        let routes = format!("{zero} 00 {zero} 00 {hop} 00000400 0 0 3 eth0\n");
        assert_eq!(gateways_v6(&routes).collect::<Vec<_>>(), [ip("fe80::1")]);
    }

    /// What is routed to the host is the host's, however much it is; a transparent proxy's table is no route of everybody's.
    #[test]
    fn ranges_that_are_routed_to_the_host_are_its_own() {
        let trie = "Id 100:\n  |-- 0.0.0.0\n     /0 host LOCAL\n  |-- 51.15.9.0\n     /24 host LOCAL\n\
                    Main:\n  +-- 0.0.0.0/1 2 0 2\n     |-- 51.15.8.0\n        /24 link LOCAL\n        /25 link UNICAST\n\
                    Local:\n     |-- 127.0.0.0\n        /8 host LOCAL\n        /31 host LOCAL tos=16\n\
                    \x20    |-- 10.0.0.0\n        /99 host LOCAL\n        /x host LOCAL\n";
        assert_eq!(
            local_v4(trie),
            ["51.15.9.0/24", "51.15.8.0/24", "127.0.0.0/8", "127.0.0.0/31"].map(net),
            "neither the routes of others nor what is none"
        );
        assert_eq!(local_v4("Local:\n  |-- 0.0.0.0\n     /0 host LOCAL\n"), [net("0.0.0.0/0")]);
        let zero = "0".repeat(32);
        let line = |destination: &str, prefix: &str, flags: &str| {
            format!("{destination} {prefix} {zero} 00 {zero} 00000400 00000001 00000000 {flags}       lo\n")
        };
        let table = [
            line("26064700000100000000000000000000", "40", "80000001"),
            line("2a000001000000000000000000000005", "80", "80200001"),
            line("2a000001000000000000000000000000", "80", "00100001"),
            line("2a000002000000000000000000000000", "20", "00000001"),
            line(&zero, "00", "80000001"),
            line(&zero, "00", "00200200"),
            line(&zero, "zz", "80000001"),
            "junk 80\n".to_owned(),
        ];
        let own: Vec<IpNet> = ranges_v6(&table.concat()).collect();
        assert_eq!(own, ["2606:4700:1::/64", "2a00:1::5/128", "2a00:1::/128"].map(net));
    }

    #[test]
    fn this_machine_has_loopback() {
        let own = read(Path::new("/proc/net")).unwrap();
        assert!(own.contains(&net("127.0.0.1/32")) && own.contains(&net("127.0.0.0/8")), "{own:?}");
    }
}
