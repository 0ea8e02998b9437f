//! Three system calls for which there is no safe function: two make TUN interfaces, whose packets this process reads and
//! writes, and one makes a thread urgent.

#![allow(unsafe_code, reason = "see above; nothing else here is unsafe")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

/// An interface. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Tun(File);

impl Tun {
    /// Makes an interface in the network namespace of the calling thread. Reading and writing never wait.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let mut request = Request { name: [0; libc::IFNAMSIZ], flags: 0, rest: [0; 22] };
        // One byte stays zero.
        if name.is_empty() || name.len() >= request.name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // Whole IP packets, and before each a virtio header.
        request.flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq` and keeps no pointer to it. `Request` has its size and
        // layout (checked below), is initialised, and lives until the call returns.
        unsafe { set_interface(file.as_raw_fd(), &mut request) }?;
        // A kernel that does not know how (of UDP before Linux 6.2) cuts packets itself: more work, else the same.
        let _ = offload(&file, CHECKSUMS | TCP4 | UDP4 | UDP6).or_else(|_| offload(&file, CHECKSUMS | TCP4));
        Ok(Self(file))
    }

    /// Reads a virtio header and a packet: the bytes of both. `WouldBlock` if there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Writes a virtio header and a packet: the namespace of the interface receives it, in this thread.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.0).write_vectored(parts).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the kernel may leave to whoever reads from an interface.
fn offload(file: &File, what: u64) -> nix::Result<libc::c_int> {
    // SAFETY: TUNSETOFFLOAD takes a number, no pointer.
    unsafe { set_offload(file.as_raw_fd(), what) }
}

/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_USO4` and `TUN_F_USO6` of linux/if_tun.h; the last two come together only.
const CHECKSUMS: u64 = 0x01;
const TCP4: u64 = 0x02;
const UDP4: u64 = 0x20;
const UDP6: u64 = 0x40;

/// Makes the calling thread run as soon as it can, before all that is not urgent.
pub(crate) fn make_urgent() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the call reads one `sched_param`, which lives until it returns, and 0 stands for the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where TUN interfaces come from.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// `struct ifreq`, netdevice(7), with flags as the member of its union.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

// TUNSETIFF is declared with the size of an int, but takes an ifreq (Documentation/networking/tuntap.rst).
nix::ioctl_readwrite_bad!(
    /// TUNSETIFF.
    set_interface,
    nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
    Request
);

nix::ioctl_write_int!(
    /// TUNSETOFFLOAD.
    set_offload,
    b'T',
    208
);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for name in ["", "sixteen-letters!"] {
            assert_eq!(Tun::new(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn urgency_is_of_one_thread_and_its_alone() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The 41st word (proc_pid_stat(5)); the second ends with the last parenthesis.
            stat.rsplit(')').next().unwrap().split_whitespace().nth(38).unwrap().parse::<i32>().unwrap()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| match make_urgent() {
                Ok(()) => {
                    assert_eq!(policy() & libc::SCHED_RR, libc::SCHED_RR);
                    assert_eq!(
                        std::thread::scope(|scope| scope.spawn(policy).join().unwrap()),
                        libc::SCHED_OTHER
                    );
                }
                // Without root.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            });
        });
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
