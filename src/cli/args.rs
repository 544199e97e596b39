//! The arguments, as clap reads them; help, completions and the manual page are made from here.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A small broker for the edge: Kafka protocol, LMDB log, host metrics and MQTT in, a mirror to the centre out.
#[derive(Debug, Parser)]
#[command(name = "brooklet", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; without it, the daemon runs.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) run: Run,
}

/// Options of the daemon.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(super) struct Run {
    /// Configuration file [default: /etc/brooklet/brooklet.toml if it exists, else built-in defaults]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where the log lies [default: $STATE_DIRECTORY, $XDG_STATE_HOME/brooklet or ~/.local/state/brooklet]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Address for Kafka clients [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_LISTEN")]
    pub(super) listen: Option<String>,
    /// Address for health, metrics and status over HTTP [default: 127.0.0.1:8083]
    #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_ADMIN")]
    pub(super) admin: Option<String>,
}

/// Which broker a command talks to.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Broker {
    /// Broker to talk to; any Kafka will do
    #[arg(
        long,
        short = 'b',
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        env = "BROOKLET_BOOTSTRAP_SERVER"
    )]
    pub(super) bootstrap_server: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon (the default)
    Run(Run),
    /// Read the configuration and report everything that is wrong; exit 0 or 78
    Check {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the configuration in force, secrets masked, or the documented default file
    Config {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print the documented default file instead
        #[arg(long)]
        defaults: bool,
    },
    /// Measure the card, look at the machine and at the mirror's target, say what to change; exit 0 or 1
    Doctor {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where the log lies [default: the configuration's]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// One screen: log, topics, groups, connectors, streams, mirrors
    Status {
        /// The daemon's admin address [default: the configuration's]
        #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_ADMIN")]
        admin: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Configuration file that names the admin address
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List, create, describe, alter and delete topics
    Topics {
        #[command(flatten)]
        broker: Broker,
        #[command(subcommand)]
        command: TopicsCommand,
    },
    /// Send the lines of standard input to a topic
    Produce {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        produce: Produce,
    },
    /// Print the records of a topic
    Consume {
        #[command(flatten)]
        broker: Broker,
        #[command(flatten)]
        consume: Consume,
    },
    /// List, describe, reset and delete consumer groups
    Groups {
        #[command(flatten)]
        broker: Broker,
        #[command(subcommand)]
        command: GroupsCommand,
    },
    /// The links to the centre
    Mirror {
        #[command(subcommand)]
        command: MirrorCommand,
    },
    /// Verify, back up, restore and export the log's file
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Version, commit, target and LMDB's version
    Version,
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff)
    #[command(hide = true)]
    Man,
}

#[derive(Debug, Subcommand)]
pub(super) enum TopicsCommand {
    /// Names of the topics
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Make topics
    Create {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
        /// Number of partitions [default: the broker's]
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// A setting, such as retention.ms=86400000
        #[arg(long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Succeed if it exists already
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Partitions, offsets and settings
    Describe {
        /// Which; all without
        topics: Vec<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Change settings or add partitions
    Alter {
        /// The topic
        topic: String,
        /// New number of partitions
        #[arg(long)]
        partitions: Option<i32>,
        /// A setting, such as retention.ms=86400000
        #[arg(long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// A setting to return to its default
        #[arg(long, value_name = "KEY")]
        delete_config: Vec<String>,
    },
    /// Delete topics and their records
    Delete {
        /// Their names
        #[arg(required = true)]
        topics: Vec<String>,
        /// Succeed if it does not exist
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Produce {
    /// The topic
    pub(super) topic: String,
    /// What separates key and value in a line; without it lines are values
    #[arg(long, short = 'K', value_name = "TEXT")]
    pub(super) key_separator: Option<String>,
    /// Send to this partition
    #[arg(long, short, value_parser = clap::value_parser!(i32).range(0..))]
    pub(super) partition: Option<i32>,
    /// A header for every record
    #[arg(long, short = 'H', value_name = "KEY=VALUE")]
    pub(super) header: Vec<String>,
    /// Compression: none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value = "none")]
    pub(super) compression: String,
    /// An empty value is a tombstone
    #[arg(long, short = 'Z')]
    pub(super) null_value: bool,
}

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(super) struct Consume {
    /// The topic
    pub(super) topic: String,
    /// Start where this group stopped, and commit to it
    #[arg(long, short = 'G')]
    pub(super) group: Option<String>,
    /// Start with the oldest record
    #[arg(long)]
    pub(super) from_beginning: bool,
    /// Stop after this many records
    #[arg(long, short = 'c', alias = "count", value_name = "N")]
    pub(super) max_messages: Option<u64>,
    /// Only this partition
    #[arg(long, short)]
    pub(super) partition: Option<i32>,
    /// Start at this offset; a negative one counts from the end
    #[arg(long, short, allow_negative_numbers = true)]
    pub(super) offset: Option<i64>,
    /// Stop at the end instead of waiting for more
    #[arg(long, short = 'e')]
    pub(super) exit: bool,
    /// How a record is printed: %t topic, %p partition, %o offset, %k key, %s value, %T timestamp, %h headers,
    /// %K and %S their lengths, \n \t \\ escapes
    #[arg(long, short, default_value = "%s\\n")]
    pub(super) format: String,
    /// One JSON object per record
    #[arg(long, conflicts_with = "format")]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupsCommand {
    /// Names and states
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Offsets and lag by partition
    Describe {
        /// Which; all without
        groups: Vec<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Move the committed offsets of a group without members
    ResetOffsets {
        /// The group
        group: String,
        /// Only these topics; all that the group has offsets of without
        #[arg(long)]
        topic: Vec<String>,
        /// To the oldest record
        #[arg(long, group = "to")]
        to_earliest: bool,
        /// To the end
        #[arg(long, group = "to")]
        to_latest: bool,
        /// To this offset
        #[arg(long, group = "to", value_name = "OFFSET")]
        to_offset: Option<i64>,
        /// By this many records
        #[arg(long, group = "to", value_name = "N", allow_negative_numbers = true)]
        shift_by: Option<i64>,
        /// To the first record at or after this time (milliseconds since 1970 or RFC 3339)
        #[arg(long, group = "to", value_name = "TIME")]
        to_datetime: Option<String>,
        /// Do it; without, only show what would be done
        #[arg(long)]
        execute: bool,
    },
    /// Delete groups without members
    Delete {
        /// Their names
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Check every checksum and offset of a log without a daemon; exit 1 if it is damaged
    Verify {
        /// A data directory, backup or quarantined file [default: the configuration's directory]
        source: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Configuration file that names the directory
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Copy the log of the running daemon into a new directory, as it is at one moment
    Backup {
        /// The directory, made if it is missing
        destination: PathBuf,
        /// The daemon's admin address [default: the configuration's]
        #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_ADMIN")]
        admin: Option<String>,
        /// Configuration file that names the admin address
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make a backup the log of a directory that has none; stop the daemon first
    Restore {
        /// The backup: its directory or file
        source: PathBuf,
        /// Where the log will lie [default: the configuration's directory]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Configuration file that names the directory
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print records as JSON lines without a daemon, also from a backup or a quarantined file
    Export {
        /// Which topics; all without
        topics: Vec<String>,
        /// A data directory, backup or quarantined file [default: the configuration's directory]
        #[arg(long, value_name = "PATH")]
        from: Option<PathBuf>,
        /// Configuration file that names the directory
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MirrorCommand {
    /// The gap ledger: what was deleted here before it was mirrored
    Gaps {
        /// The daemon's admin address [default: the configuration's]
        #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_ADMIN")]
        admin: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Configuration file that names the admin address
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// How far each link is, and up to when the data is safe at the centre
    Status {
        /// The daemon's admin address [default: the configuration's]
        #[arg(long, value_name = "HOST:PORT", env = "BROOKLET_ADMIN")]
        admin: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
        /// Configuration file that names the admin address
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_fit_together() {
        super::Args::command().debug_assert();
    }
}
