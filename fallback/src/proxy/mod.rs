//! Proxies: which one is for which host, and how one is asked for a connection.
