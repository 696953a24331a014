//! Tables of symbols, written as `scripts/kallsyms.c` of several releases writes them.

use super::*;

const BASE: u64 = 0xffff_ffff_8100_0000;

/// What differs from release to release.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// Offsets in front of the names, not behind the tokens.
    offsets_first: bool,
    /// 3 bytes for each symbol, in the order of names, behind the markers.
    sequence: bool,
    /// `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`.
    absolute_percpu: bool,
}

const FORMS: [Form; 5] = [
    Form {
        offsets_first: true,
        sequence: false,
        absolute_percpu: true,
    },
    Form {
        offsets_first: true,
        sequence: false,
        absolute_percpu: false,
    },
    Form {
        offsets_first: true,
        sequence: true,
        absolute_percpu: true,
    },
    Form {
        offsets_first: false,
        sequence: false,
        absolute_percpu: true,
    },
    Form {
        offsets_first: false,
        sequence: false,
        absolute_percpu: false,
    },
];

/// An image with `count` functions, 16 bytes each from `BASE` on, and a variable of a CPU's own area first.
fn image(form: Form, count: usize) -> Vec<u8> {
    // Every byte stands for itself, but for a few that are no characters: those are longer tokens.
    let token = |byte: u8| match byte {
        1..=8 => format!("function_{byte}_of_"),
        // Most bytes below the digits are merged tokens in real kernels, too.
        0 | 9..=0x1f => format!("x{byte:x}"),
        0x7f.. => format!("y{byte:x}"),
        _ => char::from(byte).to_string(),
    };
    let mut names = Vec::new();
    let mut markers = Vec::new();
    let mut offsets: Vec<u32> = Vec::new();
    for number in 0..count {
        if number % PER_MARKER == 0 {
            markers.push(u32::try_from(names.len()).unwrap());
        }
        let is_percpu = number == 0 && form.absolute_percpu;
        let name = match number {
            0 if is_percpu => b"Dvariable".to_vec(),
            _ => [
                b"T",
                [u8::try_from(number % 8 + 1).unwrap()].as_slice(),
                number.to_string().as_bytes(),
            ]
            .concat(),
        };
        names.push(u8::try_from(name.len()).unwrap());
        names.extend(name);
        let at = u32::try_from(16 * number).unwrap();
        offsets.push(match (is_percpu, form.absolute_percpu) {
            (true, _) => 0x1000,
            (false, true) => (-1 - at.cast_signed()).cast_unsigned(),
            (false, false) => at,
        });
    }
    let mut image = vec![0xcc; 0x1000];
    let put = |image: &mut Vec<u8>, bytes: &[u8]| {
        image.extend_from_slice(bytes);
        image.resize(image.len().next_multiple_of(8), 0);
    };
    let offsets: Vec<u8> = offsets
        .iter()
        .flat_map(|offset| offset.to_le_bytes())
        .collect();
    let put_offsets = |image: &mut Vec<u8>| {
        put(image, &offsets);
        put(image, &BASE.to_le_bytes());
    };
    if form.offsets_first {
        put_offsets(&mut image);
    }
    put(&mut image, &u32::try_from(count).unwrap().to_le_bytes());
    put(&mut image, &names);
    let markers: Vec<u8> = markers
        .iter()
        .flat_map(|marker| marker.to_le_bytes())
        .collect();
    put(&mut image, &markers);
    if form.sequence {
        let sequence: Vec<u8> = (0..count).flat_map(|_| [0x01, 0x39, 0x8d]).collect();
        put(&mut image, &sequence);
    }
    let mut table = Vec::new();
    let mut index = Vec::new();
    for byte in 0..=255 {
        index.extend(u16::try_from(table.len()).unwrap().to_le_bytes());
        table.extend(token(byte).bytes());
        table.push(0);
    }
    put(&mut image, &table);
    put(&mut image, &index);
    if !form.offsets_first {
        put_offsets(&mut image);
    }
    image.extend([0xcc; 0x1000]);
    image.resize(image.len().max(16 * count), 0xcc);
    image
}

#[test]
fn the_tables_of_all_releases_are_found_and_name_every_function() {
    for form in FORMS {
        for count in [2, 255, 256, 257, 5000] {
            let symbols = find(&image(form, count), VirtAddr::new(BASE))
                .unwrap_or_else(|| panic!("{form:?}, {count}"));
            assert_eq!(symbols.len(), count, "{form:?}");
            for number in 1..count - 1 {
                let name = format!("function_{}_of_{number}", number % 8 + 1);
                let at = VirtAddr::new(BASE + 16 * number as u64);
                assert_eq!(symbols.name_of(at), Some((name.as_str(), 0)), "{form:?}");
                assert_eq!(symbols.address_of(&name), Some(at), "{form:?}");
            }
            let variable = form.absolute_percpu.then_some(VirtAddr::new(0x1000));
            assert_eq!(symbols.address_of("variable"), variable, "{form:?}");
        }
    }
}

#[test]
fn a_table_with_one_wrong_byte_names_nothing_or_nothing_far_off_and_ends() {
    let mut seed = 0x9e37_79b9_u32;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as usize % below
    };
    let mut refused = 0;
    for round in 0..400 {
        let mut image = image(FORMS[round % FORMS.len()], 600);
        let end = image.len() - 0x1000;
        image[0x1000 + random(end - 0x1000)] ^= 1 << random(8);
        match find(&image, VirtAddr::new(BASE)) {
            // Part of a name, or of an address.
            Some(symbols) => assert_eq!(symbols.len(), 600),
            None => refused += 1,
        }
    }
    assert!((50..400).contains(&refused), "{refused}");
}

#[test]
fn an_image_that_is_cut_off_or_full_of_digits_has_no_symbols() {
    let whole = image(FORMS[0], 600);
    for end in (0x1000..whole.len() - 0x1000).step_by(61) {
        assert!(find(&whole[..end], VirtAddr::new(BASE)).is_none(), "{end}");
    }
    let digits = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00".repeat(1000);
    assert!(find(&digits, VirtAddr::new(BASE)).is_none());
}
