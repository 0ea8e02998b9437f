//! What is allowed. Decisions only: no clock, no socket, no file.
