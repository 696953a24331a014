//! A session of the real gdb.

use std::fs;
use std::process::Command;

use crate::client::{Waiting, heirloom};

#[test]
fn on_kvm_gdb_breaks_in_the_kernel_asks_heirloom_about_it_and_lets_it_run_to_its_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let extracted = heirloom().arg("extract").arg(folder.path()).output();
    assert!(extracted.unwrap().status.success());
    let commands = heirloom().arg("gdb").output().unwrap();
    let sourced = folder.path().join("heirloom.gdb");
    fs::write(&sourced, commands.stdout).unwrap();
    let script = format!(
        "set pagination off\n\
         set confirm off\n\
         source {}\n\
         target remote PLACE\n\
         break kernel_main\n\
         continue\n\
         backtrace\n\
         set language c\n\
         print/x ((unsigned long *)&boot_pgd)[511]\n\
         print/x $cr3\n\
         heirloom-translate &boot_pgd\n\
         stepi\n\
         hbreak system_call\n\
         continue\n\
         info threads\n\
         heirloom-check\n\
         heirloom-maps\n\
         hbreak *0xffffffff80000001\n\
         hbreak *0xffffffff80000002\n\
         hbreak *0xffffffff80000003\n\
         python\n\
         try: gdb.execute('continue')\n\
         except gdb.error as error: print('refused:', error)\n\
         end\n\
         delete\n\
         continue\n\
         print $_exitcode\n",
        sourced.display()
    );
    for cpus in ["1", "2"] {
        let guest = Waiting::start(heirloom().args(["run", "--gdb", ":0", "--cpus", cpus]));
        let script = script.replace("PLACE", &guest.place);
        let file = folder.path().join("script");
        fs::write(&file, script).unwrap();
        let gdb = Command::new("gdb")
            .args(["-nx", "-quiet", "-batch", "-x"])
            .arg(&file)
            .arg(folder.path().join("heirloom-kernel"))
            .output()
            .unwrap();
        let seen = String::from_utf8_lossy(&gdb.stdout).into_owned();
        let complained = String::from_utf8_lossy(&gdb.stderr).into_owned();
        let ended = guest.end();
        let all = format!("{seen}\n{complained}\n{}\n{}", ended.shown, ended.said);
        for words in [
            // A breakpoint of the CPU, and the line table of the kernel.
            "Breakpoint 1, ",
            "kernel_main () at kernel/src/main.rs",
            // The entry of the kernel image: present, writable, a table.
            "$1 = 0x22",
            "Breakpoint 2, system_call ",
            "exited normally]",
            "$3 = 0\n",
        ] {
            assert!(seen.contains(words), "{words}: {all}");
        }
        // gdb shows what it is told by `monitor` there.
        for words in [
            "byte 0x0, kernel image",
            "  PGD[511]  = 0x",
            "HOLDS: 16 of 20 rules hold",
            "  direct map      ",
        ] {
            assert!(complained.contains(words), "{words}: {all}");
        }
        // The four registers take the system call's and three that nobody comes to; the kernel's main has another.
        assert!(
            all.contains("You may have requested too many hardware breakpoints"),
            "{all}"
        );
        assert_eq!(seen.contains("CPU 1, "), cpus == "2", "{all}");
        assert_eq!(ended.code, Some(0), "{all}");
        assert!(ended.shown.contains("\nHOLDS: "), "{all}");
    }
}
