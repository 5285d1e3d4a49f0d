//! The program `cepa` as a library: what the binary calls, for its tests, its fuzzers and other programs of this
//! repository.
//!
//! This library is no public interface: nothing in it is promised from one version to the next, and it is not
//! published. Who embeds a client in another program takes the package `cepa-client`.
//!
//! The rooms stand above one another, and each calls only those below it: [`cli`] has one file for each command;
//! [`testnet`] runs a whole network on this machine, `bench` measures one, `check` looks whether a client does its work,
//! [`control`] lets other programs of the owner ask a node that runs; [`node`] starts and stops a node; [`config`]
//! turns a file into checked settings; [`terminal`] is what the program says and hears.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "unit tests use the real world beside the simulated one"
    )
)]

#[expect(
    clippy::disallowed_methods,
    reason = "measures real sockets and processes from outside, and writes what its caller named"
)]
mod bench;
#[expect(
    clippy::disallowed_methods,
    reason = "looks at a running client from outside, and at the machine that it runs on"
)]
mod check;
#[expect(
    clippy::disallowed_methods,
    reason = "speaks with the owner, not for a node: reads and writes the files that the owner named"
)]
pub mod cli;
#[expect(
    clippy::disallowed_methods,
    reason = "the owner's file is read once, before there is a node"
)]
pub mod config;
#[expect(
    clippy::disallowed_methods,
    reason = "a Unix socket for the owner of a real process, beside the node"
)]
pub mod control;
pub mod harden;
pub mod node;
#[expect(
    clippy::disallowed_methods,
    reason = "the owner's log and input, of a real process"
)]
pub mod terminal;
#[expect(
    clippy::disallowed_methods,
    reason = "runs nodes of the real world, in a directory that its owner named"
)]
pub mod testnet;
