//! The program `cepa`: parses its arguments and calls the command.
//!
//! Everything that it does stands in a room of its own: [`cli`] has one file
//! for each command, [`config`] turns a file into checked settings, [`app`]
//! starts and stops a node and is the only file that knows both halves of the
//! network, [`control`] lets other programs of the owner ask a client that runs, [`identity`] finds out who a relay is by its
//! state directory, [`testnet`] runs a whole network on this machine, [`bench`] measures one.

mod app;
mod bench;
mod cli;
mod clients;
mod config;
mod control;
mod found;
mod harden;
mod identity;
mod logging;
mod measure;
mod stop;
mod testnet;
mod view;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    harden::no_core_dumps();
    harden::raise_file_limit();
    cli::Cli::parse().main()
}
