//! Frames of a body that stand for a part of a file, so that hyper can carry what sendfile(2) sends.
//!
//! The only file with `unsafe` code. Its argument: a `Frame` owns a mapping of its part of the
//! file, made and unmapped here and nowhere else, and lends it out as `&[u8]` for no longer than it
//! lives. The bytes behind it are never loaded: hyper queues the slice by address, and the I/O object
//! ([`plain`]) knows the address and has the kernel send the file. That matters because a file that
//! somebody truncates behind our back turns a load into SIGBUS, while sendfile and pread merely
//! report the end. So no path of ours dereferences a frame; what cannot be sent by sendfile is read
//! with pread. In builds with debug assertions frames are mapped without any access, and a load is a
//! crash of the test that did it. In release builds they are readable, so that a hyper that copied
//! them would still send the right bytes. Miri cannot judge it: it has no mappings of files. The mapping
//! without access takes its place, and runs with every test of the pull listener.
#![allow(unsafe_code, reason = "mmap, munmap and the slice over them, see above; one ioctl, one mallopt")]

pub mod plain;

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::net::TcpStream;

use crate::metrics::SentBy;

/// Learns what became of bytes that were handed to a connection.
pub trait Receipt: Send + Sync {
    /// So many bytes went to the socket.
    fn sent(&self, by: SentBy, bytes: u64);

    /// The file that they are in cannot be read.
    fn unreadable(&self) {}
}

/// The frames that are on their way to one connection. Shared by the bodies, which make them, and
/// the I/O object, which recognises them.
#[derive(Default)]
pub struct Regions {
    table: Mutex<Vec<Region>>,
    /// Length of the table, for a look without the lock.
    count: AtomicUsize,
}

impl std::fmt::Debug for Regions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Regions").field("count", &self.count).finish_non_exhaustive()
    }
}

/// What the addresses of a frame stand for.
#[derive(Clone)]
struct Region {
    addresses: Range<usize>,
    part: FilePart,
}

/// A place in a file, and who wants to know that bytes of it were sent.
#[derive(Clone)]
pub struct FilePart {
    file: Arc<File>,
    offset: u64,
    receipt: Arc<dyn Receipt>,
}

impl Region {
    /// What `length` bytes at `address` stand for, if all of them are of this frame.
    fn part(&self, address: usize, length: usize) -> Option<FilePart> {
        let end = address.checked_add(length)?;
        if address < self.addresses.start || end > self.addresses.end {
            return None;
        }
        let offset = self.part.offset + (address - self.addresses.start) as u64;
        Some(FilePart { offset, ..self.part.clone() })
    }
}

impl Regions {
    /// A frame for a part of the file, to be sent by the connection that these regions belong to.
    ///
    /// # Errors
    /// What mmap(2) says: no address space, too many mappings, or a file system without mappings.
    pub fn frame(
        self: &Arc<Regions>,
        file: Arc<File>,
        range: Range<u64>,
        receipt: Arc<dyn Receipt>,
    ) -> io::Result<Bytes> {
        let access = if cfg!(debug_assertions) { ProtFlags::empty() } else { ProtFlags::READ };
        let mapping = Mapping::new(&file, &range, access)?;
        let start = mapping.address();
        let region =
            Region { addresses: start..start + mapping.length, part: FilePart { file, offset: range.start, receipt } };
        let mut table = self.table.lock();
        table.push(region);
        self.count.store(table.len(), Ordering::Release);
        drop(table);
        Ok(Bytes::from_owner(Frame { mapping, regions: Arc::clone(self) }))
    }

    /// What the bytes at this address stand for; `None` for bytes that are what they are.
    fn part(&self, bytes: &[u8]) -> Option<FilePart> {
        if bytes.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let address = bytes.as_ptr().addr();
        self.table.lock().iter().find_map(|region| region.part(address, bytes.len()))
    }

    fn remove(&self, start: usize) {
        let mut table = self.table.lock();
        table.retain(|region| region.addresses.start != start);
        self.count.store(table.len(), Ordering::Release);
    }
}

/// A registered mapping. Leaves the table before its addresses can be given to anybody else.
struct Frame {
    mapping: Mapping,
    regions: Arc<Regions>,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.mapping.bytes()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.regions.remove(self.mapping.address());
    }
}

/// A part of a file in the address space.
struct Mapping {
    /// Where the mapping begins, on a page.
    base: *mut c_void,
    /// How much is mapped, in bytes.
    mapped: usize,
    /// Where the wanted part begins, in bytes from `base`; less than a page.
    skip: usize,
    /// How long the wanted part is, in bytes; `skip + length == mapped`.
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and nothing here writes to it.
unsafe impl Send for Mapping {}
// SAFETY: as above; it is only ever lent out shared.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, range: &Range<u64>, access: ProtFlags) -> io::Result<Mapping> {
        let skip = range.start % rustix::param::page_size() as u64;
        let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(too_long)?;
        let skip_bytes = usize::try_from(skip).map_err(too_long)?;
        let mapped = length.checked_add(skip_bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        // SAFETY: without MAP_FIXED the kernel picks addresses that nothing else uses; the result is
        // checked, owned by this value and unmapped once, in `drop`.
        let base = unsafe { mmap(ptr::null_mut(), mapped, access, MapFlags::SHARED, file, range.start - skip)? };
        Ok(Mapping { base, mapped, skip: skip_bytes, length })
    }

    fn address(&self) -> usize {
        self.base.addr() + self.skip
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the part lies within the mapping, which lives as long as `self`. Nobody loads from
        // it (see the head of this file), so neither its protection nor the file's length matters.
        unsafe { slice::from_raw_parts(self.base.cast::<u8>().add(self.skip), self.length) }
    }
}

/// How many bytes that were written to a socket the other side has not taken yet.
pub(super) fn untaken(socket: &TcpStream) -> io::Result<u64> {
    const SIOCOUTQ: Opcode = 0x5411;
    // SAFETY: this call puts one int where it is told, and changes nothing else (tcp(7)).
    let bytes = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new())? };
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Buffers of so many bytes and more are mapped one by one, and go back to the system when they are dropped.
const MAPPED_BY_THEMSELVES: c_int = 512 << 10;

/// Has glibc give the memory of large bodies back. Left to itself it takes the first large buffer that is dropped for a
/// sign that more will come (up to 32 MiB), keeps those in the arenas of its threads, and needs twice what is in use:
/// 490 MiB with 4,096 clients that read nothing of the largest manifests, 260 MiB so. What is smaller stays as fast as
/// it was. False where the allocator does not take it. Before there are threads.
pub(crate) fn give_large_buffers_back() -> bool {
    // SAFETY: it sets a number of the allocator, and touches no memory that is in use (mallopt(3)).
    #[cfg(target_env = "gnu")]
    let taken = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BY_THEMSELVES) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * MAPPED_BY_THEMSELVES) == 1
    };
    #[cfg(not(target_env = "gnu"))]
    let taken = false;
    taken
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; slices of it borrow from the value that is going away.
        let unmapped = unsafe { munmap(self.base, self.mapped) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Bytes of the buffers that glibc has mapped one by one.
    #[cfg(target_env = "gnu")]
    fn mapped_by_themselves() -> usize {
        // SAFETY: it reads the allocator's own counts (mallinfo(3)).
        unsafe { libc::mallinfo2() }.hblkhd
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn a_large_buffer_is_mapped_by_itself_also_after_another_was_dropped() {
        // As large as glibc still keeps in an arena when it is told nothing, and together more than all that the tests
        // beside this one hold.
        const LARGE: usize = 31 << 20;
        const COUNT: usize = 16;
        assert!(give_large_buffers_back());
        drop(Vec::<u8>::with_capacity(LARGE));
        let before = mapped_by_themselves();
        let buffers: Vec<_> = (0..COUNT).map(|_| std::hint::black_box(Vec::<u8>::with_capacity(LARGE))).collect();
        let more = mapped_by_themselves().saturating_sub(before);
        assert!(more >= COUNT * LARGE / 2, "{more} bytes of {} buffers", buffers.len());
    }

    struct Nobody;

    impl Receipt for Nobody {
        fn sent(&self, _: SentBy, _: u64) {}
    }

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Arc::new(file)
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    #[test]
    fn an_address_stands_for_its_place_in_the_file() {
        let part = FilePart { file: file(b""), offset: 1000, receipt: Arc::new(Nobody) };
        let region = Region { addresses: 50..80, part };
        for (address, length, offset) in [
            (50, 30, Some(1000)),
            (60, 20, Some(1010)),
            (79, 1, Some(1029)),
            (60, 21, None),
            (49, 2, None),
            (80, 1, None),
            (70, usize::MAX, None),
        ] {
            assert_eq!(region.part(address, length).map(|part| part.offset), offset, "{length} at {address}");
        }
    }

    #[test]
    fn a_frame_that_is_copied_has_the_bytes_of_the_file() {
        let bytes = noise(100_000);
        let file = file(&bytes);
        for range in [0..100_000, 1..99_999, 4096..8192, 5000..5001] {
            let mapping = Mapping::new(&file, &range, ProtFlags::READ).expect("mapped");
            assert_eq!(mapping.bytes(), &bytes[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[test]
    fn a_frame_is_known_until_the_last_slice_of_it_is_gone() {
        let regions = Arc::new(Regions::default());
        let mut frame = regions.frame(file(&noise(20_000)), 300..20_000, Arc::new(Nobody)).expect("mapped");
        let rest = frame.split_off(1000);
        assert_eq!(regions.part(&frame).map(|part| part.offset), Some(300));
        assert_eq!(regions.part(&rest).map(|part| part.offset), Some(1300));
        assert!(regions.part(b"something else").is_none());
        drop(frame);
        assert_eq!(regions.part(&rest).map(|part| part.offset), Some(1300));
        drop(rest);
        assert_eq!(regions.table.lock().len(), 0);
    }
}
