//! The loopback device of a new network namespace, which is down at first.
#![allow(unsafe_code, reason = "neither nix nor rustix has the ioctls of network devices")]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Brings `lo` up; the kernel gives it its addresses, 127.0.0.1 and ::1.
///
/// # Errors
/// What the kernel says.
pub fn raise_loopback() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeros are a valid request; the name that follows ends in one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads the name and writes the flags, both in a request that lives across the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let up = libc::IFF_UP as libc::c_short;
    // SAFETY: the flags are what the call before has written.
    unsafe { request.ifr_ifru.ifru_flags |= up };
    // SAFETY: as above, and the kernel only reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::engine::namespace;
    use crate::sys::process::in_child;

    #[test]
    fn userns_a_new_network_speaks_to_itself() {
        let ids = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let outcome = in_child(|| {
            namespace::enter_user(ids.0, ids.1).map_err(io::Error::other)?;
            unshare(CloneFlags::CLONE_NEWNET)?;
            let unreachable = TcpStream::connect("127.0.0.1:9").unwrap_err();
            if unreachable.kind() != io::ErrorKind::NetworkUnreachable {
                return Err(unreachable);
            }
            raise_loopback()?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            TcpStream::connect(listener.local_addr()?).map(drop)
        });
        outcome.unwrap();
    }
}
