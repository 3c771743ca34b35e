//! `SO_RCVLOWAT`, which no crate at hand sets: the only file of this benchmark with `unsafe` code.
#![allow(unsafe_code, reason = "setsockopt; see below")]

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

/// The socket counts as readable only when so many bytes are there.
pub fn set_low_water(socket: &TcpStream, bytes: i32) -> io::Result<()> {
    let value: libc::c_int = bytes;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the kernel reads `length` bytes of
    // `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            std::ptr::from_ref(&value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
