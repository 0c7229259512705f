//! How much may there be? The bounds of lowering; an endpoint that reaches one is reported.

/// Most rules of one direction of an endpoint; what further ones would allow is denied.
pub const RULES: usize = 131_072;
/// Most numbers that one port name may stand for in an egress rule, lowest first; it does not
/// allow further ones.
pub const PORT_NUMBERS: usize = 1_024;
