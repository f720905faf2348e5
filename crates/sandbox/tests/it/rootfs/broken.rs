//! Archives that are too large, torn or nothing of the kind.

use sandbox::rootfs::Bounds;
use testkit::TarBytes;
use testkit::archive::xz;

use super::{Bed, honest};

const GIB: u64 = 1 << 30;

#[test]
fn a_file_larger_than_the_tree_may_be_is_refused_before_a_byte_is_written() {
    let bed = Bed::new();
    let huge = TarBytes::new().header(b'0', "var/huge", "", 0o644, 100 * GIB).unfinished();
    assert_eq!(
        bed.refused(&xz(&huge)),
        "var/huge: 107374182400 bytes, with 8589934592 left of the 8589934592 that a tree may have"
    );
}

/// What would fill the disk is small on the way: here 64 MiB of zeros in a few kilobytes.
#[test]
fn many_files_together_are_bounded() {
    let bed = Bed::new();
    let zeros = vec![0; 16 << 20];
    let bomb = (0..4).fold(TarBytes::new(), |tar, n| tar.file(&format!("zeros-{n}"), 0o644, &zeros)).tar_xz();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let bounds = |mib: u64| Bounds { bytes: mib << 20, ..Bounds::default() };
    let said = bed.install_within(&bomb, bounds(40)).unwrap_err().to_string();
    assert_eq!(said, "zeros-2: 16777216 bytes, with 8388608 left of the 41943040 that a tree may have");
    bed.untouched();
    bed.install_within(&bomb, bounds(65)).expect("the control");
}

/// Data that belongs to no file counts too.
#[test]
fn an_archive_of_nothing_but_data_is_bounded() {
    let bed = Bed::new();
    let zeros = vec![0; 16 << 20];
    let archive = (0..3).fold(TarBytes::new(), |tar, n| tar.entry(b'3', &format!("null-{n}"), "", 0o644, &zeros));
    let archive = archive.tar_xz();
    let bounds = |mib: u64| Bounds { bytes: mib << 20, ..Bounds::default() };
    let said = bed.install_within(&archive, bounds(20)).unwrap_err().to_string();
    assert_eq!(said, "it unpacks to more than 20971520 bytes");
    bed.untouched();
    bed.install_within(&archive, bounds(49)).expect("the control");
}

#[test]
fn entries_are_counted_extensions_too() {
    let bed = Bed::new();
    let files = (0..20).fold(TarBytes::new(), |tar, n| tar.file(&format!("f{n}"), 0o644, b"")).tar_xz();
    let records = (0..20).fold(TarBytes::new(), |tar, _| tar.record("comment", "x")).file("f", 0o644, b"").tar_xz();
    let bounds = |entries| Bounds { entries, ..Bounds::default() };
    for archive in [files, records] {
        let said = bed.install_within(&archive, bounds(19)).unwrap_err().to_string();
        assert!(said.ends_with("one entry more than the 19 that a tree may have"), "{said}");
        bed.untouched();
        bed.install_within(&archive, bounds(21)).expect("the control");
        std::fs::remove_dir_all(bed.cache()).unwrap();
    }
}

#[test]
fn sparse_files_of_both_kinds_are_refused() {
    let bed = Bed::new();
    let old = TarBytes::new().header(b'S', "var/sparse", "", 0o644, 0).tar_xz();
    assert_eq!(bed.refused(&old), "var/sparse: a sparse file: make the archive without --sparse");
    let new = TarBytes::new().record("GNU.sparse.realsize", "107374182400").file("var/sparse", 0o644, b"").tar_xz();
    assert_eq!(bed.refused(&new), "an extension: a sparse file: make the archive without --sparse");
}

#[test]
fn an_extension_is_not_read_into_memory_whatever_it_says() {
    let bed = Bed::new();
    for kind in [b'L', b'K', b'x', b'g'] {
        let archive = TarBytes::new().header(kind, "long", "", 0o644, 4 * GIB).unfinished();
        assert_eq!(bed.refused(&xz(&archive)), "an extension: a name or record of more than 256 KiB");
    }
}

#[test]
fn two_sizes_for_one_entry_are_refused() {
    let bed = Bed::new();
    let sized = |size: &str| TarBytes::new().record("size", size).file("file", 0o644, b"1234").tar_xz();
    assert_eq!(bed.refused(&sized("512")), "file: two sizes for one entry");
    bed.install(&sized("4")).expect("the control");
}

#[test]
fn an_unknown_type_is_refused() {
    let bed = Bed::new();
    assert_eq!(
        bed.refused(&TarBytes::new().entry(b'M', "x", "", 0o644, b"").tar_xz()),
        "x: an entry of the unknown type 'M'"
    );
}

#[test]
fn too_deep_a_tree_is_refused() {
    let bed = Bed::new();
    let deep = |levels: usize| TarBytes::new().record("path", &"d/".repeat(levels)).dir("d", 0o755).tar_xz();
    let said = bed.refused(&deep(129));
    assert!(said.contains("deeper than 128 directories"), "{said}");
    bed.install(&deep(128)).expect("the control");
}

#[test]
fn what_is_no_archive_is_refused() {
    let bed = Bed::new();
    for (bytes, said) in [
        (Vec::new(), "it is not a whole .xz file: unexpected end of XZ stream"),
        (b"<html>404</html>".to_vec(), "it is not a whole .xz file: "),
        (honest().tar(), "it is not a whole .xz file: "),
        (xz(b"no archive in here"), "it is no tar archive: failed to read entire block"),
        (xz(&[b'x'; 2048]), "it is no tar archive: "),
        (xz(b""), "it ends without the mark of an archive's end"),
    ] {
        let refusal = bed.refused(&bytes);
        assert!(refusal.starts_with(said), "{refusal}");
    }
}

/// Cut anywhere, an archive is refused: in the packed file, and before it was packed.
#[test]
fn a_torn_archive_is_refused_wherever_it_is_torn() {
    let bed = Bed::new();
    let (packed, plain) = (honest().tar_xz(), honest().tar());
    for cut in [1, 6, 12, 30, packed.len() / 2, packed.len() - 30, packed.len() - 12, packed.len() - 1] {
        let said = bed.refused(&packed[..cut]);
        assert!(said.starts_with("it is not a whole .xz file: "), "{cut}: {said}");
    }
    for cut in [100, 512, 700, 1024, plain.len() - 1024, plain.len() - 2000] {
        let said = bed.refused(&xz(&plain[..cut]));
        let torn = said.starts_with("it ends") || said == "it is no tar archive: failed to read entire block";
        assert!(torn, "{cut}: {said}");
    }
    bed.install(&packed).expect("the control");
}

/// A damaged bit is seen by the decoder's own check, also where the digest was made of the damaged file.
#[test]
fn a_damaged_archive_is_refused() {
    let bed = Bed::new();
    let good = honest().tar_xz();
    for at in [good.len() / 3, good.len() / 2, good.len() - 20] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let said = bed.refused(&bad);
        assert!(said.starts_with("it is "), "{at}: {said}");
    }
}

/// The CRC-32 of `.xz` headers, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A header may ask for a dictionary of 4 GiB: it is refused before anything is allocated.
#[test]
fn memory_for_the_decoder_is_bounded() {
    let bed = Bed::new();
    let with_dictionary = |size: u8| {
        let mut archive = honest().tar_xz();
        // After the stream's header of 12 bytes: the block's, which ends with its CRC.
        let length = (usize::from(archive[12]) + 1) * 4;
        let filter = archive[12..12 + length].windows(2).position(|pair| pair == [0x21, 1]).unwrap();
        archive[12 + filter + 2] = size;
        let crc = crc32(&archive[12..12 + length - 4]);
        archive[12 + length - 4..12 + length].copy_from_slice(&crc.to_le_bytes());
        archive
    };
    let said = bed.refused(&with_dictionary(40));
    assert!(said.contains("memory"), "{said}");
    // The control: 64 MiB, as `xz -9` asks for.
    bed.install(&with_dictionary(28)).unwrap();
}

/// Streams that hold nothing come to nothing: the decoder does not read them for ever.
#[test]
fn a_file_of_nothing_but_frames_is_given_up() {
    let bed = Bed::new();
    let nothing = xz(b"");
    let many = nothing.repeat((17 << 20) / nothing.len());
    assert_eq!(bed.refused(&many), "it is not a whole .xz file: it holds next to nothing");
    let few = [nothing.repeat(1000), honest().tar_xz()].concat();
    bed.install(&few).expect("the control");
}

#[test]
fn several_streams_in_one_file_are_one_archive() {
    let bed = Bed::new();
    let tar = honest().tar();
    let (first, second) = tar.split_at(1500);
    bed.install(&[xz(first), xz(second)].concat()).unwrap();
}
