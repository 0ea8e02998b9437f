//! Cuts what a kernel sends as one packet into those that it stands for.

use super::checksum::{pseudo, set_ip};
use super::virtio::{Kind, VIRTIO, Virtio};
use super::{CWR, FIN, PSH, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM};

/// The packets that a frame stands for: one, or as many as it is to be cut into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'f> {
    virtio: Virtio,
    /// As it was read: all of its parts have its addresses, its ports, and its type of service.
    packet: &'f [u8],
    /// Length of the IP header; of that and TCP's or UDP's. Of a frame to be cut only. Bytes.
    ip: usize,
    headers: usize,
}

impl<'f> Parts<'f> {
    /// Nothing if the frame makes no sense.
    pub(crate) fn of(frame: &'f [u8]) -> Option<Self> {
        let (virtio, packet) = Virtio::of(frame)?;
        let uncut = Self { virtio, packet, ip: 0, headers: packet.len() };
        let protocol = match virtio.kind {
            Kind::Whole => return Some(uncut),
            Kind::Tcp => TCP,
            Kind::Udp => UDP,
        };
        let ip = usize::from(packet.first()? & 15) * 4;
        let plain = packet[0] >> 4 == 4 && ip >= 20 && packet.len() >= ip + 8 && packet[9] == protocol;
        // The length also shows that it was read as a whole.
        let whole = plain && usize::from(u16::from_be_bytes([packet[2], packet[3]])) == packet.len();
        if !whole || virtio.size == 0 {
            return None;
        }
        let (least, len) = match virtio.kind {
            Kind::Tcp => (20, usize::from(packet.get(ip + 12)? >> 4) * 4),
            _ => (8, 8),
        };
        let headers = ip + len;
        (len >= least && headers < packet.len()).then_some(Self { ip, headers, ..uncut })
    }

    /// The packet as it was read.
    pub(crate) fn packet(&self) -> &'f [u8] {
        self.packet
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        (self.packet.len() - self.headers).div_ceil(self.virtio.size.max(1)).max(1)
    }

    /// The length of one of them. Bytes.
    pub(crate) fn len(&self, part: usize) -> usize {
        self.headers + self.payload(part).len()
    }

    /// Makes one of them, as a frame. A checksum that was still to be made still is.
    pub(crate) fn put(&self, part: usize, frame: &mut Vec<u8>) {
        frame.clear();
        if self.virtio.kind == Kind::Whole {
            frame.extend_from_slice(&self.virtio.bytes());
            frame.extend_from_slice(self.packet);
            return;
        }
        let Self { ip, headers, .. } = *self;
        let offset = if self.virtio.kind == Kind::Tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let virtio = Virtio { partial: Some((ip, offset)), ..Virtio::default() };
        let payload = self.payload(part);
        frame.extend_from_slice(&virtio.bytes());
        frame.extend_from_slice(&self.packet[..headers]);
        frame.extend_from_slice(payload);

        let (ip, carried) = frame[VIRTIO..].split_at_mut(ip);
        let len = carried.len();
        let whole = (ip.len() + len) as u16;
        let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(part as u16);
        ip[2..4].copy_from_slice(&whole.to_be_bytes());
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        set_ip(ip);
        if self.virtio.kind == Kind::Tcp {
            let sequence = u32::from_be_bytes([carried[4], carried[5], carried[6], carried[7]])
                .wrapping_add((part * self.virtio.size) as u32);
            carried[4..8].copy_from_slice(&sequence.to_be_bytes());
            // The first tells of the smaller window (RFC 3168 section 6.1.2), the last of the end.
            carried[13] &= !if part > 0 { CWR } else { 0 };
            carried[13] &= !if part + 1 < self.count() { FIN | PSH } else { 0 };
        } else {
            carried[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        }
        let pseudo = pseudo(&ip[12..20], ip[9], len);
        carried[offset..][..2].copy_from_slice(&pseudo.to_be_bytes());
    }

    fn payload(&self, part: usize) -> &'f [u8] {
        let payload = &self.packet[self.headers..];
        let rest = &payload[payload.len().min(part * self.virtio.size)..];
        &rest[..rest.len().min(self.virtio.size)]
    }
}
