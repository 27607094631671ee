//! Raw bindings to libdpdk, and to the C shim that holds its static inlines.
//!
//! Generated at build time from the headers that `pkg-config` finds (DPDK 22.11 to 25.11). What those releases
//! call differently has one name here, beginning with `shim_`. There is no policy and no safe API: see the
//! `dpdk` module of the `dataplane` crate.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    improper_ctypes,
    dead_code,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    unpredictable_function_pointer_comparisons,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    rustdoc::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
