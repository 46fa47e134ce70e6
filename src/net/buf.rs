//! Bytes on their way from one peer to the other, and the store that lends the memory for them.
//!
//! Knows what was cleared for sending and what was not looked at yet; not what the bytes say.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Stream;

/// What one read may bring: large, because each read and each write costs a system call.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers that a worker keeps for reuse; beyond that they go back to the allocator.
const KEPT: usize = 64;

/// One worker's spare buffers.
#[derive(Clone, Default)]
pub struct BufferStore(Rc<RefCell<Vec<Box<[u8]>>>>);

impl BufferStore {
    #[inline]
    fn take(&self) -> Box<[u8]> {
        let spare = self.0.borrow_mut().pop();
        spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    #[inline]
    fn put(&self, buffer: Box<[u8]>) {
        let mut spare = self.0.borrow_mut();
        if buffer.len() == BUFFER_BYTES && spare.len() < KEPT {
            spare.push(buffer);
        }
    }
}

/// A queue of bytes in two parts: `cleared` ones may be sent on, `raw` ones behind them have not
/// been looked at. Holds memory only while it holds bytes.
#[derive(Default)]
pub struct Buf {
    data: Box<[u8]>,
    start: usize,
    cleared: usize,
    end: usize,
}

impl Buf {
    #[inline]
    pub fn cleared(&self) -> &[u8] {
        self.data.get(self.start..self.cleared).unwrap_or_default()
    }

    #[inline]
    pub fn raw(&self) -> &[u8] {
        self.data.get(self.cleared..self.end).unwrap_or_default()
    }

    #[inline]
    pub fn raw_mut(&mut self) -> &mut [u8] {
        self.data
            .get_mut(self.cleared..self.end)
            .unwrap_or_default()
    }

    #[inline]
    pub fn has_cleared(&self) -> bool {
        self.start != self.cleared
    }

    #[inline]
    pub fn has_raw(&self) -> bool {
        self.cleared != self.end
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// The next `count` raw bytes may be sent on.
    #[inline]
    pub fn clear(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.cleared);
        self.cleared += count;
    }

    /// `count` cleared bytes were sent.
    #[inline]
    pub fn sent(&mut self, count: usize) {
        debug_assert!(count <= self.cleared - self.start);
        self.start += count;
        if self.start == self.end {
            (self.start, self.cleared, self.end) = (0, 0, 0);
        }
    }

    /// Takes the next `count` raw bytes out of the queue.
    #[inline]
    pub fn discard(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.cleared);
        if self.start == self.cleared {
            self.cleared += count;
            self.sent(count);
        } else {
            self.data
                .copy_within(self.cleared + count..self.end, self.cleared);
            self.end -= count;
        }
    }

    /// Writes over the first raw bytes from `offset` on.
    pub fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        let from = self.cleared + offset;
        debug_assert!(from + bytes.len() <= self.end);
        if let Some(place) = self.data.get_mut(from..from + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Puts bytes of our own behind the cleared ones, ahead of the raw ones, and clears them.
    #[inline]
    pub fn insert(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.wedge(bytes);
        }
    }

    fn wedge(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.data
            .copy_within(self.cleared..self.end, self.cleared + bytes.len());
        if let Some(gap) = self.data.get_mut(self.cleared..self.cleared + bytes.len()) {
            gap.copy_from_slice(bytes);
        }
        self.cleared += bytes.len();
        self.end += bytes.len();
    }

    /// Takes back the last of the cleared bytes, which nobody has seen.
    pub fn retract(&mut self, bytes: usize) {
        let kept = self.cleared - bytes.min(self.cleared - self.start);
        self.data.copy_within(self.cleared..self.end, kept);
        self.end -= self.cleared - kept;
        self.cleared = kept;
        self.sent(0);
    }

    /// Puts bytes back that were taken out, ahead of the raw ones.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.insert(bytes);
        self.cleared -= bytes.len();
    }

    /// Puts bytes at the end, raw.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.join(bytes);
        }
    }

    fn join(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.end + bytes.len();
        if let Some(gap) = self.data.get_mut(self.end..end) {
            gap.copy_from_slice(bytes);
        }
        self.end = end;
    }

    /// Makes room for `more` bytes at the end; the memory is the queue's own, sized to fit.
    pub fn reserve(&mut self, more: usize) {
        if self.data.len() - self.end >= more {
            return;
        }
        if self.data.len() - self.len() >= more {
            self.compact();
            return;
        }
        let wanted = (self.len() + more).max(self.len() * 2).max(64);
        self.resize(wanted);
    }

    fn compact(&mut self) {
        self.data.copy_within(self.start..self.end, 0);
        self.cleared -= self.start;
        self.end -= self.start;
        self.start = 0;
    }

    fn resize(&mut self, bytes: usize) {
        self.move_to(vec![0; bytes].into_boxed_slice());
    }

    /// Gives up memory that holds nothing; what a long wait will keep is moved to memory of its size.
    #[inline]
    pub fn rest(&mut self, store: &BufferStore) {
        if !self.data.is_empty() {
            self.give_up(store);
        }
    }

    #[inline(never)]
    fn give_up(&mut self, store: &BufferStore) {
        if self.is_empty() {
            self.give_back(store);
        } else if self.data.len() >= BUFFER_BYTES && self.len() * 2 < self.data.len() {
            self.shrink(store);
        }
    }

    /// Gives up its memory and whatever is in it.
    #[inline]
    pub fn give_back(&mut self, store: &BufferStore) {
        store.put(std::mem::take(&mut self.data));
        (self.start, self.cleared, self.end) = (0, 0, 0);
    }

    /// Moves to memory of its size.
    #[cold]
    fn shrink(&mut self, store: &BufferStore) {
        let large = std::mem::take(&mut self.data);
        self.data = large.get(self.start..self.end).unwrap_or_default().into();
        self.cleared -= self.start;
        self.end -= self.start;
        self.start = 0;
        store.put(large);
    }

    /// Whether another read makes sense: there is room, or a buffer of full size would give some.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.data.len() < BUFFER_BYTES || self.len() < self.data.len()
    }

    /// Whether its memory is filled to the end.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.end == self.data.len()
    }

    /// Reads once into the free part; 0 is the end of the stream.
    #[inline]
    pub fn poll_fill(
        &mut self,
        from: &mut Stream,
        store: &BufferStore,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.data.is_empty() {
            self.data = store.take();
        } else if self.data.len() < BUFFER_BYTES {
            self.move_to(store.take());
        } else if self.end == self.data.len() && self.start > 0 {
            self.compact();
        }
        let room = self.data.get_mut(self.end..).unwrap_or_default();
        match from.poll_read_into(cx, room) {
            Poll::Ready(Ok(count)) => {
                self.end += count;
                Poll::Ready(Ok(count))
            }
            nothing => {
                if self.is_empty() {
                    self.give_back(store);
                }
                nothing
            }
        }
    }

    /// Takes what it holds along to another memory, which is larger.
    #[cold]
    fn move_to(&mut self, memory: Box<[u8]>) {
        let before = std::mem::replace(&mut self.data, memory);
        let held = before.get(self.start..self.end).unwrap_or_default();
        if let Some(front) = self.data.get_mut(..held.len()) {
            front.copy_from_slice(held);
        }
        self.cleared -= self.start;
        self.end -= self.start;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(bytes: &[u8]) -> Buf {
        let mut buf = Buf::default();
        buf.insert(bytes);
        buf.cleared = 0;
        buf
    }

    #[test]
    fn bytes_are_cleared_discarded_and_sent() {
        let mut buf = holding(b"abcdefgh");
        buf.discard(1);
        buf.clear(2);
        assert_eq!((buf.cleared(), buf.raw()), (&b"bc"[..], &b"defgh"[..]));
        buf.discard(2);
        assert_eq!((buf.cleared(), buf.raw()), (&b"bc"[..], &b"fgh"[..]));
        buf.insert(b"XY");
        assert_eq!((buf.cleared(), buf.raw()), (&b"bcXY"[..], &b"fgh"[..]));
        buf.sent(3);
        assert_eq!((buf.cleared(), buf.raw()), (&b"Y"[..], &b"fgh"[..]));
        assert_eq!(buf.len(), 4);
    }

    #[test]
    fn resting_gives_memory_back() {
        let store = BufferStore::default();
        let mut buf = holding(b"abc");
        buf.resize(BUFFER_BYTES);
        buf.clear(1);
        buf.rest(&store);
        assert_eq!(
            (buf.cleared(), buf.raw(), buf.capacity()),
            (&b"a"[..], &b"bc"[..], 3)
        );
        assert!(buf.has_room(), "or what follows is never read");
        buf.clear(2);
        buf.sent(3);
        buf.rest(&store);
        assert_eq!(store.0.borrow().len(), 1);
        buf.resize(BUFFER_BYTES);
        buf.rest(&store);
        assert_eq!(buf.capacity(), 0);
        assert_eq!(store.0.borrow().len(), 2);
    }
}
