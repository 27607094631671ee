//! Namespaces, traffic and end-to-end tests of Flyover.
