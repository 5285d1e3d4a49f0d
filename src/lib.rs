//! The program `cepa` as a library: what the binary calls, for its tests, its fuzzers and other programs of this
//! repository.
//!
//! This library is no public interface: nothing in it is promised from one version to the next, and it is not
//! published. Who embeds a client in another program takes the package `cepa-client`.
//!
//! The rooms stand above one another, and each calls only those below it: [`cli`] has one file for each command;
//! [`testnet`] runs a whole network on this machine, `bench` measures one, [`control`] lets other programs of the
//! owner ask a client that runs; [`node`] starts and stops a node; [`config`] turns a file into checked settings;
//! [`terminal`] is what the program says and hears.

mod bench;
pub mod cli;
pub mod config;
pub mod control;
pub mod harden;
pub mod node;
pub mod terminal;
pub mod testnet;
