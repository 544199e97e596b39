//! The reading half of a connection: frames as they come, within the memory there is.
//!
//! Never allocates by a length that a peer claims: a buffer at most doubles what has come, and a large frame's length is
//! reserved in the budget once its first piece is there. A Produce request that no budget could hold is read to its end
//! without its batches, so that it can be answered: a closed connection would tell its client nothing.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::{net::TcpStream, time::timeout};

use super::{Broker, conn::Close, limits::Patience};
use crate::{
    memory::{SMALL_BYTES, Share},
    wire::ApiKey,
};

/// Read at once from a socket on which something comes. On the stack, so idle connections share it.
const READ_BYTES: usize = 8 << 10;

/// Key, version and correlation id: no request is shorter.
const SHORTEST_BYTES: usize = 8;

/// First flexible version of Produce: compact lengths and tagged fields, in its header too.
const FLEXIBLE_PRODUCE: i16 = 9;

/// Most that is kept of a request without its batches: those of some hundred partitions. Not counted in the budget, since
/// it may take minutes to come.
const MOST_KEPT_BYTES: usize = 8 << 10;

/// One request without its length.
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    /// Of the budget, for as long as the bytes are held.
    pub(super) share: Share,
    /// The batches were left out, because no budget could hold the frame.
    pub(super) cut: Option<CutBatches>,
}

/// What is known of batches that were left out.
pub(super) struct CutBatches {
    /// Of the whole frame.
    pub(super) frame_bytes: usize,
    /// Of each, in their order.
    pub(super) lengths: Vec<usize>,
}

/// The reading half, with what came beyond the last frame.
pub(super) struct Incoming<'a> {
    broker: &'a Broker,
    pub(super) stream: &'a TcpStream,
    peer: SocketAddr,
    pending: BytesMut,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(broker: &'a Broker, stream: &'a TcpStream, peer: SocketAddr) -> Self {
        Self { broker, stream, peer, pending: BytesMut::new() }
    }

    /// The next frame.
    pub(super) async fn frame(&mut self) -> Result<Frame, Close> {
        let stall = self.broker.limits.stall_timeout;
        if self.pending.is_empty() {
            self.more(self.broker.idle_timeout()).await?;
        }
        // Length and API key: enough to know which limit holds.
        while self.pending.len() < 6 {
            self.more(stall).await?;
        }
        let claimed =
            i64::from(i32::from_be_bytes([self.pending[0], self.pending[1], self.pending[2], self.pending[3]]));
        let key = i16::from_be_bytes([self.pending[4], self.pending[5]]);
        let most = self.broker.limits.frame_bytes(key);
        let size = usize::try_from(claimed).ok().filter(|size| (SHORTEST_BYTES..=most).contains(size));
        let Some(size) = size else { return Err(Close::FrameSize(claimed)) };
        self.pending.advance(4);

        let budget = &self.broker.memory;
        let frame = if size > budget.most_frame_bytes() && key == ApiKey::Produce as i16 {
            self.cut_frame(size).await?
        } else {
            let (share, patience) = if size > SMALL_BYTES {
                let front = budget.take_front().await;
                self.grow_to(SMALL_BYTES, size, &Patience::new(size, stall)).await?;
                let share = budget.take(size).await;
                drop(front);
                // Waiting for the budget was not the peer's fault.
                (share, Patience::holding(size, stall))
            } else {
                (budget.take(size).await, Patience::new(size, stall))
            };
            self.grow_to(size, size, &patience).await?;
            Frame { bytes: self.pending.split_to(size).freeze(), share, cut: None }
        };
        if self.pending.is_empty() {
            self.pending = BytesMut::new();
        }
        self.broker.metrics.received_bytes.add(size as u64 + 4);
        Ok(frame)
    }

    /// Reads what there is, once something comes.
    async fn more(&mut self, patience: Duration) -> Result<(), Close> {
        let slow = if self.pending.is_empty() { Close::Idle } else { Close::Slow };
        loop {
            match timeout(patience, self.stream.readable()).await {
                Ok(ready) => ready.map_err(|_| Close::Gone)?,
                Err(_) => return Err(slow),
            }
            if let Some(count) = self.try_read()? {
                return if count == 0 { Err(Close::Gone) } else { Ok(()) };
            }
        }
    }

    fn try_read(&mut self) -> Result<Option<usize>, Close> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(count) => {
                self.pending.extend_from_slice(&bytes[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Close::Gone),
        }
    }

    /// Reads until `want` bytes of a frame of `size` are there. The buffer at most doubles what has come.
    async fn grow_to(&mut self, want: usize, size: usize, patience: &Patience) -> Result<(), Close> {
        while self.pending.len() < want {
            let have = self.pending.len();
            if self.pending.capacity() == have {
                self.pending.reserve((size - have).min(have.max(READ_BYTES)));
            }
            match patience.wait(&self.broker.memory, self.stream.readable()).await {
                Some(ready) => ready.map_err(|_| Close::Gone)?,
                None => return Err(Close::Slow),
            }
            let room = (self.pending.capacity() - have).min(size - have);
            match self.stream.try_read_buf(&mut (&mut self.pending).limit(room)) {
                Ok(0) => return Err(Close::Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Close::Gone),
            }
        }
        Ok(())
    }

    /// A Produce request with nothing in the place of its batches.
    async fn cut_frame(&mut self, size: usize) -> Result<Frame, Close> {
        let patience = Patience::new(size, self.broker.limits.stall_timeout);
        let mut cut = Cut { incoming: self, left: size, patience, kept: BytesMut::new(), lengths: Vec::new() };
        cut.request().await?;
        let (bytes, lengths) = (cut.kept.freeze(), cut.lengths);
        tracing::info!(peer = %self.peer, bytes = size, "a Produce request is larger than the memory for requests");
        let share = self.broker.memory.take(bytes.len()).await;
        Ok(Frame { bytes, share, cut: Some(CutBatches { frame_bytes: size, lengths }) })
    }
}

/// Reads a Produce request field by field and keeps all but its batches.
struct Cut<'a, 'b> {
    incoming: &'a mut Incoming<'b>,
    /// Bytes of the frame still to come.
    left: usize,
    patience: Patience,
    kept: BytesMut,
    lengths: Vec<usize>,
}

impl Cut<'_, '_> {
    /// See `wire::produce` for the fields.
    async fn request(&mut self) -> Result<(), Close> {
        let head = self.keep(8).await?;
        let is_flexible = i16::from_be_bytes([head[2], head[3]]) >= FLEXIBLE_PRODUCE;
        self.keep_text(false).await?; // client id, which has kept its old length
        if is_flexible {
            self.keep_tags().await?;
        }
        self.keep_text(is_flexible).await?; // transactional id
        self.keep(2 + 4).await?; // acks, time-out
        for _ in 0..self.keep_count(is_flexible).await? {
            self.keep_text(is_flexible).await?; // topic
            for _ in 0..self.keep_count(is_flexible).await? {
                self.keep(4).await?; // partition
                self.drop_batches(is_flexible).await?;
                if is_flexible {
                    self.keep_tags().await?;
                }
            }
            if is_flexible {
                self.keep_tags().await?;
            }
        }
        if is_flexible {
            self.keep_tags().await?;
        }
        self.skip(self.left).await
    }

    /// Waits until so many bytes of the frame are there.
    async fn need(&mut self, bytes: usize) -> Result<(), Close> {
        if bytes > self.left {
            return Err(Close::Malformed(crate::wire::Error::Truncated));
        }
        if self.kept.len() + bytes > MOST_KEPT_BYTES {
            return Err(Close::FrameSize(i64::try_from(self.left).unwrap_or(i64::MAX)));
        }
        while self.incoming.pending.len() < bytes {
            let ready = self.patience.wait(&self.incoming.broker.memory, self.incoming.stream.readable()).await;
            ready.ok_or(Close::Slow)?.map_err(|_| Close::Gone)?;
            if self.incoming.try_read()? == Some(0) {
                return Err(Close::Gone);
            }
        }
        Ok(())
    }

    /// Keeps so many bytes, and gives them.
    async fn keep(&mut self, bytes: usize) -> Result<Bytes, Close> {
        self.need(bytes).await?;
        let kept = self.incoming.pending.copy_to_bytes(bytes);
        self.left -= bytes;
        self.kept.extend_from_slice(&kept);
        Ok(kept)
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<(), Close> {
        if bytes > self.left {
            return Err(Close::Malformed(crate::wire::Error::Truncated));
        }
        self.left -= bytes;
        loop {
            let here = bytes.min(self.incoming.pending.len());
            self.incoming.pending.advance(here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            // What has been skipped is given back, so the buffer stays as it is.
            self.incoming.pending.reserve(READ_BYTES);
            let ready = self.patience.wait(&self.incoming.broker.memory, self.incoming.stream.readable()).await;
            ready.ok_or(Close::Slow)?.map_err(|_| Close::Gone)?;
            if self.incoming.try_read()? == Some(0) {
                return Err(Close::Gone);
            }
        }
    }

    async fn keep_varint(&mut self) -> Result<usize, Close> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.keep(1).await?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(usize::try_from(value).unwrap_or(usize::MAX));
            }
        }
        Err(Close::Malformed(crate::wire::Error::Malformed("varint")))
    }

    /// A length of four bytes, or a varint that is one more; nothing is as null.
    async fn keep_count(&mut self, is_flexible: bool) -> Result<usize, Close> {
        if is_flexible {
            return Ok(self.keep_varint().await?.saturating_sub(1));
        }
        let count = self.keep(4).await?.get_i32();
        Ok(usize::try_from(count).unwrap_or(0))
    }

    async fn keep_text(&mut self, is_flexible: bool) -> Result<(), Close> {
        let length = if is_flexible {
            self.keep_varint().await?.saturating_sub(1)
        } else {
            usize::try_from(self.keep(2).await?.get_i16()).unwrap_or(0)
        };
        self.keep(length).await.map(drop)
    }

    async fn keep_tags(&mut self) -> Result<(), Close> {
        for _ in 0..self.keep_varint().await? {
            self.keep_varint().await?;
            let length = self.keep_varint().await?;
            self.keep(length).await?;
        }
        Ok(())
    }

    /// Leaves out the batches; their length becomes nothing.
    async fn drop_batches(&mut self, is_flexible: bool) -> Result<(), Close> {
        let at = self.kept.len();
        let length = self.keep_count(is_flexible).await?;
        self.lengths.push(length);
        self.kept.truncate(at);
        if is_flexible {
            self.kept.put_u8(1);
        } else {
            self.kept.put_i32(0);
        }
        self.skip(length).await
    }
}
