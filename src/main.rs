//! The program `cepa`: parses its arguments and calls the command.
//!
//! Everything that it does stands in a room of its own: [`cli`] has one file
//! for each command, [`config`] turns a file into checked settings, [`node`]
//! starts and stops a node, [`control`] lets other programs of the owner ask a client that runs,
//! [`testnet`] runs a whole network on this machine, [`bench`] measures one.

mod bench;
mod cli;
mod config;
mod control;
mod harden;
mod node;
mod terminal;
mod testnet;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    harden::no_core_dumps();
    harden::raise_file_limit();
    cli::Cli::parse().main()
}
