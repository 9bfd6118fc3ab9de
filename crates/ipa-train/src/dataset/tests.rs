#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::Instant;

use ipa_formats::sha256_file;
use tempfile::TempDir;

use super::check::chain as told;
use super::*;

fn refusal(list: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.json");
    fs::write(&path, list).unwrap();
    told(&Dataset::open(&path).unwrap_err())
}

fn png(width: u32, height: u32, shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, image::Rgb([shade, 90, 30]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A folder with two pictures and their captions.
fn pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, caption) in [("b.png", "a star\n"), ("a.PNG", "")] {
        let path = folder.path().join(name);
        fs::write(&path, png(8, 8, 0)).unwrap();
        fs::write(path.with_extension("txt"), caption).unwrap();
    }
    folder
}

/// Keys and captions of all rows.
fn rows(dataset: &Dataset) -> Vec<(String, String)> {
    let row = |row| dataset.sample(row).map(|sample| (sample.key, sample.text)).unwrap();
    (0..dataset.len()).map(row).collect()
}

fn row(key: &str, text: &str) -> (String, String) {
    (key.to_owned(), text.to_owned())
}

#[test]
fn bad_lists_are_refused_with_row_and_reason() {
    for (list, expected) in [
        ("[]", "lists no pictures"),
        (r#"[{"image_file": "a.png", "text": ""}]"#, "row 0: `a.png` does not exist"),
        (r#"[{"image_file": "../a.png", "text": ""}]"#, "row 0: `../a.png` leaves the dataset's folder"),
        (r#"[{"image_file": "/etc/passwd", "text": ""}]"#, "leaves the dataset's folder"),
        (r#"[{"text": ""}]"#, "row 0: `image_file` is missing"),
        (r#"[{"image_file": "a.png"}]"#, "row 0: `text` is missing"),
        (r#"[{"image_file": 5, "text": ""}]"#, "image_file"),
        (r#"{"image_file": "a.png", "text": ""}"#, "data.json"),
    ] {
        let refusal = refusal(list);
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn lines_and_folders_are_lists_too() {
    let folder = pictures();
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(rows(&dataset), [row("a.PNG", ""), row("b.png", "a star")]);
    assert_eq!(dataset.picture(1).unwrap().dimensions(), (8, 8));

    let (list, lines) = (folder.path().join("data.json"), folder.path().join("data.jsonl"));
    let line = r#"{"image_file": "b.png", "text": "a star"}"#;
    fs::write(&lines, format!("{line}\n\n  {line}\r\n{line}")).unwrap();
    fs::write(&list, format!("[{line},{line},{line}]")).unwrap();
    let (list, of_lines) = (Dataset::open(&list).unwrap(), Dataset::open(&lines).unwrap());
    assert_eq!(rows(&of_lines), vec![row("b.png", "a star"); 3]);
    assert_eq!(list.digest().unwrap(), of_lines.digest().unwrap());
    fs::write(&lines, format!("{line}\n\n[]\n")).unwrap();
    assert!(Dataset::open(&lines).unwrap_err().to_string().contains("data.jsonl, line 3"));
    fs::write(&lines, [&b"  "[..], &[b'x'; 2 << 20]].concat()).unwrap();
    assert!(Dataset::open(&lines).unwrap_err().to_string().contains("line 1: the line is longer"));
}

#[test]
fn all_fields_of_a_row_arrive() {
    let folder = pictures();
    fs::create_dir(folder.path().join("more")).unwrap();
    for name in ["more/mask.png", "more/look.png", "more/face.npy"] {
        fs::write(folder.path().join(name), png(8, 8, 1)).unwrap();
    }
    let line = r#"{"image_file": "./b.png", "text": "t", "reference_file": "more/look.png",
        "mask_file": "more/mask.png", "id_embed_file": "more/face.npy", "weight": 0.5, "image_drop": 0.1,
        "text_drop": 0.2, "both_drop": 0, "license": "CC0"}"#;
    let path = folder.path().join("data.jsonl");
    fs::write(&path, line.replace('\n', " ")).unwrap();
    let file = |name: &str| Source::File(folder.path().join(name));
    let expected = Sample {
        key: "./b.png".to_owned(),
        text: "t".to_owned(),
        weight: 0.5,
        drops: RowDrops { image_drop: Some(0.1), text_drop: Some(0.2), both_drop: Some(0.0) },
        picture: file("./b.png"),
        reference: Some(file("more/look.png")),
        mask: Some(file("more/mask.png")),
        id_embed: Some(file("more/face.npy")),
    };
    assert_eq!(Dataset::open(&path).unwrap().sample(0).unwrap(), expected);
    for (field, name) in
        [("reference_file", "more/look.png"), ("mask_file", "more/mask.png"), ("id_embed_file", "more/face.npy")]
    {
        for (wrong, problem) in [("../x", "leaves the dataset's folder"), ("more/lost", "does not exist")] {
            fs::write(&path, line.replace('\n', " ").replace(name, wrong)).unwrap();
            let error = Dataset::open(&path).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(field) && error.contains("line 1"), "{error}");
        }
    }
}

#[test]
fn a_list_that_changes_under_training_is_noticed() {
    let folder = pictures();
    let path = folder.path().join("data.jsonl");
    let line = |name: &str| format!("{{\"image_file\": \"{name}\", \"text\": \"\"}}\n");
    fs::write(&path, line("b.png").repeat(2)).unwrap();
    let dataset = Dataset::open(&path).unwrap();
    fs::write(&path, line("a.PNG").repeat(2)).unwrap();
    assert!(matches!(dataset.sample(1), Err(DataError::Changed { .. })));
    fs::write(&path, "").unwrap();
    assert!(matches!(dataset.sample(1), Err(DataError::Changed { .. })));
}

#[test]
fn a_picture_without_a_caption_is_refused_with_where_it_goes() {
    let folder = pictures();
    fs::remove_file(folder.path().join("b.txt")).unwrap();
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("b.png has no caption") && error.contains("b.txt"), "{error}");
    let (rest, faults) = Dataset::open_with_faults(folder.path()).unwrap();
    assert_eq!((rest.len(), faults.len()), (1, 1));
    let empty = tempfile::tempdir().unwrap();
    assert!(Dataset::open(empty.path()).unwrap_err().to_string().contains("lists no pictures"));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (outside, path) = (tempfile::tempdir().unwrap(), folder.path().join("data.json"));
    fs::write(outside.path().join("secret.png"), "x").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.png"), folder.path().join("a.png")).unwrap();
    std::os::unix::fs::symlink(outside.path(), folder.path().join("b")).unwrap();
    for file in ["a.png", "b/secret.png"] {
        fs::write(&path, format!(r#"[{{"image_file": "{file}", "text": ""}}]"#)).unwrap();
        assert!(matches!(Dataset::open(&path), Err(DataError::Outside { .. })), "{file}");
    }
}

#[test]
fn a_split_depends_on_keys_alone() {
    let folder = pictures();
    let path = folder.path().join("data.jsonl");
    let names: Vec<String> = (0..1000).map(|index| format!("{index}.png")).collect();
    for name in &names {
        fs::hard_link(folder.path().join("b.png"), folder.path().join(name)).unwrap();
    }
    let held_out = |names: &[&String], share| {
        let lines: String =
            names.iter().map(|name| format!("{{\"image_file\": \"{name}\", \"text\": \"\"}}\n")).collect();
        fs::write(&path, lines).unwrap();
        let dataset = Dataset::open(&path).unwrap();
        let split = dataset.split(share);
        assert_eq!(split.train.len() + split.held_out.len(), names.len());
        let mut keys: Vec<String> = split.held_out.iter().map(|&row| dataset.key(row as usize).unwrap()).collect();
        keys.sort();
        keys
    };
    let all: Vec<&String> = names.iter().collect();
    let found = held_out(&all, 0.1);
    assert!((70..130).contains(&found.len()), "{}", found.len());
    let reversed: Vec<&String> = names.iter().rev().collect();
    assert_eq!(held_out(&reversed, 0.1), found);
    let half: Vec<String> = held_out(&all[..500], 0.1);
    assert!(half.iter().all(|key| found.contains(key)) && half.len() < found.len());
    let more = held_out(&all, 0.3);
    assert!(found.iter().all(|key| more.contains(key)));
    assert_eq!(held_out(&all, 0.0).len(), 0);
    assert_eq!(held_out(&all, 1.0).len(), 1000);
    for share in [1e-9, 0.999_999] {
        let held_out = held_out(&all[..3], share).len();
        assert!((1..3).contains(&held_out), "{held_out} of 3 at {share}");
    }
}

#[test]
fn rows_of_a_list_come_in_the_reference_order_of_draws() {
    let dataset = Dataset::open(pictures().path()).unwrap();
    let drawn: Vec<u32> = Draws::counted(3, "order", 1).permutation(50).into_iter().map(|row| 2 * row as u32).collect();
    let rows: Vec<u32> = (0..50).map(|row| 2 * row).collect();
    assert_eq!(dataset.order(&rows, 3, 1), drawn);
}

/// Shards of few distinct pictures: `samples` in each, whose captions are `<shard>/<sample>`.
fn shards(num: usize, samples: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pictures: Vec<Vec<u8>> = (0..4).map(|shade| png(8, 12, shade * 60)).collect();
    for shard in 0..num {
        let file = fs::File::create(folder.path().join(format!("shard-{shard:06}.tar"))).unwrap();
        let mut builder = tar::Builder::new(std::io::BufWriter::new(file));
        let mut add = |name: String, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, data).unwrap();
        };
        for sample in 0..samples {
            let key = format!("{:06}", shard * samples + sample);
            add(format!("{key}.png"), &pictures[sample % 4]);
            add(format!("{key}.txt"), format!("{shard}/{sample}\n").as_bytes());
            if sample % 10 == 0 {
                add(format!("{key}.json"), br#"{"weight": 2, "url": "somewhere"}"#);
                add(format!("{key}.mask.png"), &pictures[0]);
            }
        }
        builder.into_inner().unwrap().flush().unwrap();
    }
    folder
}

#[test]
fn two_hundred_shards_are_read_row_by_row() {
    let (num, samples) = (200, 50);
    let folder = shards(num, samples);
    let start = Instant::now();
    let dataset = Dataset::open(folder.path()).unwrap();
    println!("200 shards of 50 samples opened in {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!(dataset.len(), num * samples);
    for row in [0, 9_999, 5_000, 70, 4_321, 5_001] {
        let sample = dataset.sample(row).unwrap();
        assert_eq!(sample.text, format!("{}/{}", row / samples, row % samples));
        assert_eq!(sample.key, format!("{row:06}"));
        assert_eq!(sample.weight, if row % 10 == 0 { 2.0 } else { 1.0 });
        assert_eq!(sample.mask.is_some(), row % 10 == 0);
        assert_eq!(sample.picture.dimensions().unwrap(), (8, 12));
        assert_eq!(sample.picture.picture().unwrap().get_pixel(3, 3).0[0], (row % samples % 4) as u8 * 60);
    }
    let range = folder.path().join("shard-{000000..000199}.tar");
    assert_eq!(Dataset::open(&range).unwrap().digest().unwrap(), dataset.digest().unwrap());
    let one = Dataset::open(&folder.path().join("shard-000007.tar")).unwrap();
    assert_eq!(one.sample(3).unwrap().text, "7/3");
    assert_ne!(one.digest().unwrap(), dataset.digest().unwrap());
    let missing = Dataset::open(&folder.path().join("shard-{000100..000200}.tar")).unwrap_err();
    assert!(missing.to_string().contains("shard-000200.tar"), "{missing}");
}

#[test]
fn rows_of_few_shards_at_a_time_are_mixed() {
    let (num, samples) = (30, 10);
    let folder = shards(num, samples);
    let dataset = Dataset::open(folder.path()).unwrap();
    let train = dataset.split(0.2).train;
    let order = dataset.order(&train, 5, 0);
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, train);
    assert_eq!(dataset.order(&train, 5, 0), order);
    assert_ne!(dataset.order(&train, 5, 1), order);
    assert_ne!(dataset.order(&train, 6, 0), order);
    let shard = |row: u32| row as usize / samples;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &row in &order {
        match groups.last_mut() {
            Some(group) if group.contains(&shard(row)) => {}
            Some(group) if group.len() < 8 => group.push(shard(row)),
            _ => groups.push(vec![shard(row)]),
        }
    }
    let mut seen = groups.concat();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..num), "a shard comes in one group: {groups:?}");
    assert!(groups[0].windows(2).any(|pair| pair[1] != pair[0] + 1), "shards are shuffled");
    assert!(order.windows(2).filter(|pair| shard(pair[0]) != shard(pair[1])).count() > 100, "rows are mixed");
}

#[test]
fn a_damaged_shard_is_named_and_others_can_be_used() {
    let folder = shards(3, 4);
    let path = folder.path().join("shard-000001.tar");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = told(&Dataset::open(folder.path()).unwrap_err());
    assert!(error.contains("shard-000001.tar is cut off"), "{error}");
    let (rest, faults) = Dataset::open_with_faults(folder.path()).unwrap();
    assert_eq!((rest.len(), faults.len()), (8, 1));
    fs::write(folder.path().join("a.png"), png(4, 4, 0)).unwrap();
    assert!(matches!(Dataset::open(folder.path()), Err(DataError::Mixed { .. })));
    let packed = folder.path().join("shard.tar.gz");
    fs::write(&packed, "x").unwrap();
    assert!(matches!(Dataset::open(&packed), Err(DataError::Compressed { .. })));
}

#[test]
fn a_hundred_thousand_lines_open_fast_and_are_read_at_random() {
    const ROWS: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut lines = String::new();
    for index in 0..1000 {
        let name = pictures.join(format!("{index:04}.png"));
        match index {
            0 => fs::write(name, png(8, 8, 7)).unwrap(),
            _ => fs::hard_link(pictures.join("0000.png"), name).unwrap(),
        }
    }
    for row in 0..ROWS {
        let name = row % 1000;
        writeln!(lines, r#"{{"image_file": "pictures/{name:04}.png", "text": "caption {row}", "source": "drawn"}}"#)
            .unwrap();
    }
    let path = folder.path().join("data.jsonl");
    fs::write(&path, lines).unwrap();
    let start = Instant::now();
    let dataset = Dataset::open(&path).unwrap();
    let opened = start.elapsed().as_secs_f64();
    assert_eq!(dataset.len(), ROWS);
    let start = Instant::now();
    let digest = dataset.digest().unwrap();
    println!("100,000 lines opened in {opened:.2} s, digest in {:.2} s", start.elapsed().as_secs_f64());
    assert_eq!(digest.len(), 64);
    for row in [0, 99_999, 31_415, 50_000] {
        let sample = dataset.sample(row).unwrap();
        assert_eq!(sample.text, format!("caption {row}"));
        assert_eq!(sample.key, format!("pictures/{:04}.png", row % 1000));
    }
    let start = Instant::now();
    dataset
        .order(&dataset.split(0.01).train, 0, 0)
        .iter()
        .take(1000)
        .for_each(|&row| drop(dataset.sample(row as usize)));
    println!("split, order and 1000 rows at random in {:.3} s", start.elapsed().as_secs_f64());
    let digest = dataset.sample(5).unwrap().picture.digest().unwrap();
    assert_eq!(digest, sha256_file(&pictures.join("0005.png")).unwrap());
}

#[test]
fn a_check_tells_what_is_wrong_and_what_is_worth_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let drawn = |width, height, seed: u32| {
        let wave = |at: u32| ((f64::from(at * seed) / 400.0).sin() * 127.0 + 128.0) as u8;
        RgbImage::from_fn(width, height, |x, y| image::Rgb([wave(x), wave(x + 2 * y), wave(y)]))
    };
    let written = |picture: &RgbImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let first = drawn(300, 300, 5);
    file("a.png", &written(&first));
    file("copy.png", &written(&first));
    file("near.png", &written(&image::imageops::thumbnail(&first, 280, 280)));
    file("small.png", &written(&drawn(100, 100, 23)));
    file("long.png", &written(&drawn(1200, 300, 11)));
    file("broken.png", &written(&drawn(300, 300, 17))[..500]);
    file("mask.png", &written(&drawn(300, 100, 2)));
    let list = r#"[
        {"image_file": "a.png", "text": "a cat", "license": "CC0", "url": 1},
        {"image_file": "copy.png", "text": "a cat", "consent": true, "mask_file": "mask.png"},
        {"image_file": "near.png", "text": ""},
        {"image_file": "small.png", "text": "a very long caption"},
        {"image_file": "long.png", "text": "three", "url": 2},
        {"image_file": "broken.png", "text": "four"},
        {"image_file": "lost.png", "text": "five"}]"#;
    file("data.json", list.as_bytes());
    let overflow = |text: &str| text.strip_prefix("a very ").map(str::to_owned);
    let settings = CheckSettings { min_side: 256, max_aspect: 3.0, overflow: Some(&overflow) };
    let check = check_dataset(&folder.path().join("data.json"), settings, &|_, rows| assert_eq!(rows, 6)).unwrap();
    let found = |kind: &str| {
        let row =
            |(row, finding): (&CheckedRow, &Finding)| format!("{} {}", row.key, finding.detail()).trim().to_owned();
        check.of_kind(kind).into_iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(found("copy of a file"), ["copy.png of a.png"]);
    assert_eq!(found("near duplicate").len(), 1);
    assert!(found("near duplicate")[0].starts_with("near.png of a.png, "), "{:?}", found("near duplicate"));
    assert_eq!(found("small picture"), ["small.png"]);
    assert_eq!(found("long picture"), ["long.png"]);
    assert_eq!(found("mask of another shape"), ["copy.png 300 x 100"]);
    assert_eq!(found("empty caption"), ["near.png"]);
    assert_eq!(found("caption too long"), ["small.png not read: \"long caption\""]);
    assert_eq!(found("repeated caption"), ["a.png 2 times", "copy.png 2 times"]);
    assert_eq!(found("no licence").len(), 5);
    assert_eq!(found("no consent").len(), 5);
    assert_eq!(found("broken file").len(), 1);
    assert!(found("broken file")[0].starts_with("broken.png "));
    assert_eq!(check.unknown_fields["url"], 2);
    assert!(check.told_faults()[0].contains("row 6: `lost.png` does not exist"));
    assert!(!check.is_usable());
}
