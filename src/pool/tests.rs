//! The pool's shell: desks, janitors and leases, with connections that are only pretended.
//!
//! Time stands still until everybody waits. Knows nothing of PostgreSQL.
