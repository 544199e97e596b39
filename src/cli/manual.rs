//! `brooklet man`: one page with every command, made from the arguments' own help.
//!
//! One page and not one per command: the package installs what a single call prints. Never says anything that
//! `--help` does not.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// The page as roff, for section 8.
///
/// # Errors
/// None in memory; the renderer wants a writer.
pub(super) fn page(mut root: Command) -> io::Result<Vec<u8>> {
    // Gives each command its full name, `brooklet topics create`.
    root.build();
    let man = Man::new(root.clone()).section("8");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    commands(&root, &mut page)?;
    page.extend_from_slice(
        b".SH FILES\n.TP\n/etc/brooklet/brooklet.toml\nThe configuration; \
          .B brooklet config \\-\\-defaults\nprints it with every key explained.\n\
          .TP\n/var/lib/brooklet\nThe log of the service.\n\
          .TP\n/etc/brooklet/credentials\nSecrets: the file NAME is ${credential:NAME} in the configuration.\n\
          .SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage, 78 wrong configuration.\n",
    );
    Ok(page)
}

/// A section per command, with what its own page would say in subsections.
fn commands(parent: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in parent.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let man = Man::new(command.clone());
        let mut sections = Vec::new();
        man.render_synopsis_section(&mut sections)?;
        man.render_description_section(&mut sections)?;
        man.render_options_section(&mut sections)?;
        let title = command.get_bin_name().unwrap_or_else(|| command.get_name());
        page.extend_from_slice(format!(".SH {}\n", title.to_uppercase()).as_bytes());
        for line in String::from_utf8_lossy(&sections).lines() {
            page.extend_from_slice(line.replacen(".SH ", ".SS ", 1).as_bytes());
            page.push(b'\n');
        }
        commands(command, page)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Args;

    fn names(parent: &Command, all: &mut Vec<String>) {
        for command in parent.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            all.push(command.get_bin_name().unwrap().to_uppercase());
            names(command, all);
        }
    }

    #[test]
    fn every_command_has_its_section() {
        let page = String::from_utf8(page(Args::command()).unwrap()).unwrap();
        let mut all = Vec::new();
        let mut root = Args::command();
        root.build();
        names(&root, &mut all);
        assert!(all.contains(&"BROOKLET TOPICS CREATE".to_owned()));
        for name in all {
            assert!(page.contains(&format!("\n.SH {name}\n")), "{name}");
        }
        assert!(page.starts_with(".ie") && page.contains(".TH brooklet 8"));
        assert!(page.contains("\n.SS OPTIONS\n"));
    }
}
