//! Two requests of rtnetlink(7), as bytes.

use std::net::{IpAddr, Ipv6Addr};

use super::child::LOOPBACK;

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE
const FLAGS: u16 = 0x1 | 0x4 | 0x200 | 0x400;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No search for the same address elsewhere: it is usable at once.
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_LOCAL: u8 = 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// An address for the loopback device. Of IPv4, the kernel makes the whole prefix local with it.
pub(super) fn address(address: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, flags) = if address.is_ipv4() { (AF_INET, 0) } else { (AF_INET6, IFA_F_NODAD) };
    let mut body = vec![family, prefix, flags, RT_SCOPE_UNIVERSE];
    body.extend(LOOPBACK.to_ne_bytes());
    let octets = match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    };
    attribute(&mut body, IFA_LOCAL, &octets);
    attribute(&mut body, IFA_ADDRESS, &octets);
    message(RTM_NEWADDR, &body)
}

/// A prefix whose every address is this host's.
pub(super) fn local_route(address: Ipv6Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET6, prefix, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_LOCAL];
    body.extend([0; 4]);
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    attribute(&mut body, RTA_DST, &(address.to_bits() & mask).to_be_bytes());
    attribute(&mut body, RTA_OIF, &LOOPBACK.to_ne_bytes());
    message(RTM_NEWROUTE, &body)
}

/// struct nlmsghdr and what belongs to it.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = u32::try_from(16 + body.len()).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // A sequence number and a port: there is one request at a time.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// struct rtattr; the values here are whole words, so nothing is padded.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_bytes() {
        let message = address(IpAddr::from([198, 18, 0, 1]), 15);
        let expected = [
            40, 0, 0, 0, 20, 0, 0x05, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, // header
            2, 15, 0, 0, 1, 0, 0, 0, // family, prefix, flags, scope, device
            8, 0, 2, 0, 198, 18, 0, 1, 8, 0, 1, 0, 198, 18, 0, 1,
        ];
        assert_eq!(message, expected);
        let route = local_route("fd00:1:2:3:4::9".parse().unwrap(), 64);
        assert_eq!(route.len(), 56);
        assert_eq!(route[16..28], [10, 64, 0, 0, 255, 4, 0, 2, 0, 0, 0, 0]);
        assert_eq!(route[32..48], [0xfd, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
