//! The few things that a link must know of, and do to, an IP packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use metra_sim_model::Packet;

/// Where things are in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// 4 or 6.
    version: u8,
    /// Bytes.
    len: usize,
    /// What it carries; of IPv6 the first extension header, if there is one.
    protocol: u8,
    /// Whether the ports are in it: it is no later fragment.
    first: bool,
    /// Explicit congestion notification (RFC 3168 section 5).
    ecn: u8,
}

impl Header {
    /// Nothing, if it is no IP packet.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 if packet.len() >= 20 => {
                let len = usize::from(packet[0] & 15) * 4;
                let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
                let header = Self {
                    version: 4,
                    len,
                    protocol: packet[9],
                    first: fragment == 0,
                    ecn: packet[1] & CONGESTED,
                };
                (20..=packet.len()).contains(&len).then_some(header)
            }
            6 if packet.len() >= 40 => Some(Self {
                version: 6,
                len: 40,
                protocol: packet[6],
                first: true,
                ecn: packet[1] >> 4 & CONGESTED,
            }),
            _ => None,
        }
    }

    /// What the model must know.
    pub(crate) fn packet(&self, len: usize) -> Packet {
        Packet { len: len as u32, ecn: matches!(self.ecn, 1 | 2), udp: self.udp() }
    }

    /// Whether it carries UDP.
    pub(crate) fn udp(&self) -> bool {
        self.protocol == UDP
    }

    /// Whether it is TCP to or from this address.
    pub(crate) fn tcp_of(&self, packet: &[u8], place: SocketAddr) -> bool {
        let [source, target] = self.addresses(packet);
        let Some(ports) = packet[self.len..].first_chunk::<4>() else { return false };
        let [source_port, target_port] = [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes);
        let either = [SocketAddr::new(source, source_port), SocketAddr::new(target, target_port)];
        self.protocol == TCP && self.first && either.contains(&place)
    }

    fn addresses(&self, packet: &[u8]) -> [IpAddr; 2] {
        if self.version == 4 {
            [12, 16].map(|at| {
                let bytes: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
                IpAddr::V4(Ipv4Addr::from(bytes))
            })
        } else {
            [8, 24].map(|at| {
                let bytes: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
                IpAddr::V6(Ipv6Addr::from(bytes))
            })
        }
    }

    /// Says "congestion experienced" in the packet.
    pub(crate) fn mark(&self, packet: &mut [u8]) {
        if self.version == 6 {
            packet[1] |= CONGESTED << 4;
            return;
        }
        let before = u16::from_be_bytes([packet[0], packet[1]]);
        packet[1] |= CONGESTED;
        let after = u16::from_be_bytes([packet[0], packet[1]]);
        // RFC 1624 section 3: HC' = ~(~HC + ~m + m'), in one's complement.
        let sum =
            u32::from(!u16::from_be_bytes([packet[10], packet[11]])) + u32::from(!before) + u32::from(after);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }

    /// Turns a bit of what follows the header.
    pub(crate) fn damage(&self, packet: &mut [u8], bit: u64) {
        let body = &mut packet[self.len..];
        if !body.is_empty() {
            let bit = bit % (body.len() as u64 * 8);
            body[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }
}

/// "Congestion experienced", and the bits of the field.
const CONGESTED: u8 = 3;

const TCP: u8 = 6;

const UDP: u8 = 17;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    /// From 10.77.0.1, port 258, to 10.77.0.2, port 80; TCP, ECT(0), with its checksum.
    fn example() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0x02, 0, 30, 0, 1, 0x40, 0, 64, TCP, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2, // IPv4
            1, 2, 0, 80, 0, 0, 0, 0, 0, 0,
        ];
        let sum = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// 0xffff if the checksum in it is right (RFC 1071).
    fn sum(header: &[u8]) -> u16 {
        let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn marks_keep_the_checksum_right() {
        for ecn in [1, 2] {
            for id in 0..=u16::MAX {
                let mut packet = example();
                packet[1] = ecn;
                packet[4..6].copy_from_slice(&id.to_be_bytes());
                packet[10..12].fill(0);
                let right = !sum(&packet[..20]);
                packet[10..12].copy_from_slice(&right.to_be_bytes());
                let header = Header::of(&packet).unwrap();
                assert!(header.packet(30).ecn);
                header.mark(&mut packet);
                assert_eq!((packet[1], sum(&packet[..20])), (3, 0xffff));
                assert!(!Header::of(&packet).unwrap().packet(30).ecn, "it cannot be marked again");
            }
        }
    }

    #[test]
    fn marks_of_ipv6_are_in_the_traffic_class() {
        let mut packet = [0; 40];
        (packet[0], packet[1], packet[6]) = (0x6a, 0x25, UDP);
        let header = Header::of(&packet).unwrap();
        assert_eq!(header.packet(40), Packet { len: 40, ecn: true, udp: true });
        header.mark(&mut packet);
        assert_eq!(packet[..2], [0x6a, 0x35]);
    }

    #[test]
    fn damage_is_one_bit_behind_the_header() {
        for bit in [0, 7, 79, 80, u64::MAX] {
            let mut packet = example();
            Header::of(&packet).unwrap().damage(&mut packet, bit);
            let wrong: u32 = packet.iter().zip(example()).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((wrong, &packet[..20]), (1, &example()[..20]));
        }
        let mut bare = example();
        bare.truncate(20);
        Header::of(&bare).unwrap().damage(&mut bare, 5);
        assert_eq!(bare, example()[..20]);
    }

    #[test]
    fn tcp_is_known_by_either_address_and_its_port() {
        let packet = example();
        let header = Header::of(&packet).unwrap();
        let is = |place: &str| header.tcp_of(&packet, place.parse().unwrap());
        assert!(is("10.77.0.1:258") && is("10.77.0.2:80"));
        assert!(!is("10.77.0.2:258") && !is("10.77.0.1:80") && !is("10.77.0.3:80"));
        let mut later = packet.clone();
        later[7] = 1;
        assert!(!Header::of(&later).unwrap().tcp_of(&later, "10.77.0.2:80".parse().unwrap()));
        assert!(!header.udp());
    }

    #[test]
    fn what_is_no_packet_is_none() {
        assert_eq!(Header::of(&[]), None);
        assert_eq!(Header::of(&example()[..19]), None);
        assert_eq!(Header::of(&[0x65; 39]), None);
        assert_eq!(Header::of(&[0x10; 100]), None);
        let mut long = example();
        long[0] = 0x4f;
        assert_eq!(Header::of(&long), None);
    }
}
