//! Flags of an entry.

/// Bridged: the TTL stays as it is.
pub const BRIDGED: u8 = 1;
/// Packets longer than proved go to the kernel one by one, and the direction flies on: the kernel was seen not
/// to send such packets on in one piece.
pub const REFUSE_LONGER: u8 = 2;
