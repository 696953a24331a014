//! `heirloom gdb`: commands for gdb, by which it asks this command about the guest that it debugs.

use std::path::Path;

use heirloom_source::Spec;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Options of `heirloom gdb`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The guest: qemu:SOCKET, the QMP socket of the QEMU whose stub gdb is connected to.
    #[arg(value_name = "TARGET")]
    target: Spec,
}

/// Prints the commands, to be written to a file that gdb sources.
pub(crate) fn run(options: &Options) -> Result<Exit, Failure> {
    // gdb may be started in another folder.
    let socket = std::path::absolute(options.target.file());
    let socket = socket.map_err(|error| Failure::new(Exit::Usage, error))?;
    let heirloom = std::env::current_exe().map_err(|error| {
        let what = format!("this command's own path cannot be found: {error}");
        Failure::new(Exit::Host, what)
    })?;
    let script = script(&heirloom, &socket).ok_or_else(|| {
        let what = "gdb takes no quotation marks, backslashes or per cent signs in the paths of the command and the socket: \
                    use others";
        Failure::new(Exit::Usage, what)
    })?;
    Output::new()?.line(&script)?;
    Ok(Exit::Good)
}

/// The script; `None` where a path cannot stand in it.
fn script(heirloom: &Path, socket: &Path) -> Option<String> {
    let plain = |path: &Path| {
        let text = path.to_str()?;
        let is_plain = !text.contains(|c: char| "'\"\\%".contains(c) || c.is_control());
        is_plain.then(|| text.to_owned())
    };
    let (heirloom, target) = (plain(heirloom)?, plain(socket)?);
    let command = |name: &str| format!("'{heirloom}' {name} 'qemu:{target}'");
    Some(format!(
        "\
# heirloom inside gdb, for the guest behind {target}. Source this file.
define heirloom-translate
  if $argc == 0
    with language c -- eval \"shell {translate} 0x%lx\", (unsigned long)$pc
  else
    with language c -- eval \"shell {translate} 0x%lx\", (unsigned long)($arg0)
  end
end
document heirloom-translate
Walks the page tables of CPU 0 for an address; any expression, $pc without one.
end
define heirloom-maps
  shell {maps}
end
document heirloom-maps
Lists what the address space of CPU 0 maps.
end
define heirloom-check
  shell {check}
end
document heirloom-check
Holds the rules against all address spaces.
end",
        translate = command("translate"),
        maps = command("maps"),
        check = command("check"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_ends_and_names_command_and_socket() {
        let script = script(Path::new("/bin/heirloom"), Path::new("/run/my qmp")).unwrap();
        let lines = || script.lines().map(str::trim);
        let begun = lines().filter(|line| {
            ["define", "document", "if"]
                .iter()
                .any(|word| line.starts_with(word))
        });
        assert_eq!(begun.count(), lines().filter(|line| *line == "end").count());
        let asked = script.matches("'/bin/heirloom'").count();
        assert_eq!(
            (asked, script.matches("'qemu:/run/my qmp'").count()),
            (4, 4)
        );
    }

    #[test]
    fn a_path_that_would_end_its_quotation_is_refused() {
        for path in ["/a'b", "/a\"b", "/a%sb", "/a\\b", "/a\nb"] {
            assert_eq!(
                script(Path::new("/bin/heirloom"), Path::new(path)),
                None,
                "{path}"
            );
            assert_eq!(
                script(Path::new(path), Path::new("/run/qmp")),
                None,
                "{path}"
            );
        }
    }
}
