//! What does a stage take? A [`Batch`]: up to [`BATCH`] packets, in order, without allocation.

use crate::limits::BATCH;
use crate::packet::Packet;
use arrayvec::ArrayVec;

/// Up to [`BATCH`] packets in order of arrival.
pub type Batch = ArrayVec<Packet, BATCH>;
