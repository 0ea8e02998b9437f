//! Drives source and sink over links and disks; shared by gateway and client
