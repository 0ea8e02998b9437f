//! Keys and certificates: development CA, pins, receipts, tickets
