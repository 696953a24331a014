//! `heirloom gdb`: commands for gdb, by which it asks this command about the guest that it debugs.

use std::path::Path;

use heirloom_source::Spec;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Options of `heirloom gdb`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The guest: qemu:SOCKET, the QMP socket of the QEMU whose stub gdb is connected to. Without it, that of a
    /// heirloom that was started with --gdb.
    #[arg(value_name = "TARGET")]
    target: Option<Spec>,
}

/// Prints the commands, to be written to a file that gdb sources.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    let script = match &options.target {
        Some(target) => of_qemu(target)?,
        None => script(&Asked::Stub, "of a heirloom that was started with --gdb"),
    };
    Output::new()?.line(&script)?;
    Ok(Exit::Good)
}

fn of_qemu(target: &Spec) -> Result<String, Failure> {
    // gdb may be started in another folder.
    let socket = std::path::absolute(target.file());
    let socket = socket.map_err(|error| Failure::new(Exit::Usage, error))?;
    let heirloom = std::env::current_exe().map_err(|error| {
        let what = format!("this command's own path cannot be found: {error}");
        Failure::new(Exit::Host, what)
    })?;
    let asked = Asked::command(&heirloom, &socket).ok_or_else(|| {
        let what = "gdb takes no quotation marks, backslashes or per cent signs in the paths of the command and the socket: \
                    use others";
        Failure::new(Exit::Usage, what)
    })?;
    Ok(script(&asked, &format!("behind {}", socket.display())))
}

/// Who answers.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Another process of this command, started with these words before the question and behind its name.
    Command(String, String),
    /// The stub that gdb is connected to.
    Stub,
}

impl Asked {
    /// `None` where a path cannot stand in a script.
    fn command(heirloom: &Path, socket: &Path) -> Option<Asked> {
        let plain = |path: &Path| {
            let text = path.to_str()?;
            let is_plain = !text.contains(|c: char| "'\"\\%".contains(c) || c.is_control());
            is_plain.then(|| text.to_owned())
        };
        let (heirloom, socket) = (plain(heirloom)?, plain(socket)?);
        Some(Asked::Command(
            format!("shell '{heirloom}'"),
            format!(" 'qemu:{socket}'"),
        ))
    }

    fn question(&self, name: &str) -> String {
        match self {
            Asked::Command(before, behind) => format!("{before} {name}{behind}"),
            Asked::Stub => format!("monitor {name}"),
        }
    }
}

/// The script for a guest, of which `which` goes on behind "the guest".
fn script(asked: &Asked, which: &str) -> String {
    let whose = match asked {
        Asked::Command(..) => "CPU 0",
        Asked::Stub => "the CPU that gdb looks at",
    };
    format!(
        "\
# heirloom inside gdb, for the guest {which}. Source this file.
define heirloom-translate
  if $argc == 0
    with language c -- eval \"{translate} 0x%lx\", (unsigned long)$pc
  else
    with language c -- eval \"{translate} 0x%lx\", (unsigned long)($arg0)
  end
end
document heirloom-translate
Walks the page tables of {whose} for an address; any expression, $pc without one.
end
define heirloom-maps
  {maps}
end
document heirloom-maps
Lists what the address space of {whose} maps.
end
define heirloom-check
  {check}
end
document heirloom-check
Holds the rules against all address spaces.
end",
        translate = asked.question("translate"),
        maps = asked.question("maps"),
        check = asked.question("check"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_ends_and_asks_who_is_to_be_asked() {
        let command = Asked::command(Path::new("/bin/heirloom"), Path::new("/run/my qmp")).unwrap();
        for (asked, words) in [
            (command, "shell '/bin/heirloom' maps 'qemu:/run/my qmp'\n"),
            (Asked::Stub, "  monitor maps\n"),
        ] {
            let script = script(&asked, "here");
            let lines = || script.lines().map(str::trim);
            let begun = lines().filter(|line| {
                ["define", "document", "if"]
                    .iter()
                    .any(|word| line.starts_with(word))
            });
            assert_eq!(begun.count(), lines().filter(|line| *line == "end").count());
            assert!(script.contains(words), "{script}");
            let (before, _) = words.split_once(" maps").unwrap();
            assert_eq!(script.matches(before.trim()).count(), 4, "{script}");
        }
    }

    #[test]
    fn a_path_that_would_end_its_quotation_is_refused() {
        for path in ["/a'b", "/a\"b", "/a%sb", "/a\\b", "/a\nb"] {
            let path = Path::new(path);
            assert_eq!(Asked::command(Path::new("/bin/heirloom"), path), None);
            assert_eq!(Asked::command(path, Path::new("/run/qmp")), None);
        }
    }
}
