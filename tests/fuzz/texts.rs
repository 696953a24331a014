//! Texts that users write or tools make: profiles, baselines, lists of symbols, the names of targets.

use heirloom_inspect::check::Baseline;
use heirloom_inspect::profile::ProfileFile;
use heirloom_source::Spec;

use crate::engine::Target;

pub(crate) fn profiles() -> Target {
    const SOUND: &str = r#"
name = "mine"
like = "linux"
let-pass = ["linux-efi"]
[[mark]]
text = "Linux version"
[[area]]
name = "direct map"
range = "0xffff888000000000-0xffffc87fffffffff"
is = "direct-map"
private = true
[[page]]
name = "trampoline"
rule = "write-xor-execute"
range = "0xfffffe0000000000-0xfffffe0000000fff"
rights = "rx"
why = "it is so"
"#;
    let seeds = vec![SOUND.as_bytes().to_vec(), b"name = \"mine\"".to_vec()];
    Target::new("profiles", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(file) = toml::from_str::<ProfileFile>(&text)
            && let Err(error) = file.read()
        {
            assert!(!error.to_string().is_empty());
        }
    })
}

pub(crate) fn baselines() -> Target {
    let seeds = vec![
        br#"{"version": 1, "findings": []}"#.to_vec(),
        br#"{"version": 1, "target": "core:a", "findings": [{"rule": "write-xor-execute", "identity": "0123456789abcdef", "place": "a"}]}"#
            .to_vec(),
    ];
    Target::new("baselines", seeds, |input| {
        if let Ok(baseline) = serde_json::from_slice::<Baseline>(input)
            && let Err(error) = baseline.valid()
        {
            assert!(!error.to_string().is_empty());
        }
    })
}

pub(crate) fn symbols() -> Target {
    let list = b"ffffffff81000000 T _text\nffffffff81000010 t start\n0000000000002000 D per_cpu\nffffffff82000000 B _end\n";
    let kernel = crate::machine::Elf::new(crate::machine::HALT).bytes();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    Target::new("symbols", vec![list.to_vec(), kernel], move |input| {
        let _ = &folder;
        std::fs::write(&path, input).unwrap();
        if let Err(error) = heirloom_source::read_symbols(&path) {
            assert!(!error.to_string().is_empty());
        }
    })
}

pub(crate) fn specs() -> Target {
    let texts = [
        "core:/a/b,,c,cr3=0x1000,cr4=0x6b0,encrypt-bit=47",
        "raw:a,map=0:1M:4K,map=1M:4G:2T,unpack=1G",
        "a,hole=3G,part=b,with=c",
        "qemu:/run/q.sock,memory=process",
        "rec:me@home/a@12",
        "live:,cr3=0x1000",
    ];
    let seeds = texts.map(|text| text.as_bytes().to_vec()).to_vec();
    Target::new("specs", seeds, |input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Spec>() {
            Ok(spec) => assert_eq!(spec.to_string(), text),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    })
}
