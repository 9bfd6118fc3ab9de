//! Draws a contact sheet of the world, the subjects (five to train on, others) in the last rows: `cargo run --release
//! -p ipa-pocket --example sheet -- sheet.png`.

use std::time::Instant;

use image::{RgbImage, imageops};
use ipa_pocket::{Scene, Split, Subject, caption, render, render_many};

const COLUMNS: u32 = 12;
const ROWS: u32 = 10;
const SIZE: u32 = 64;

fn main() -> image::ImageResult<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "sheet.png".to_owned());
    let mut sheet = RgbImage::new(COLUMNS * SIZE, (ROWS + Subject::ALL.len() as u32) * SIZE);
    for index in 0..COLUMNS * ROWS {
        let scene = Scene::draw_at(0, index.into(), Split::Train);
        println!("{index:3} {}", caption(&scene, 0, index.into()));
        let (x, y) = (index % COLUMNS * SIZE, index / COLUMNS * SIZE);
        imageops::replace(&mut sheet, &render(&scene, SIZE), x.into(), y.into());
    }
    for (subject, row) in Subject::ALL.into_iter().zip(ROWS..) {
        let scenes = subject.training().into_iter().chain(subject.held_out(COLUMNS as usize));
        for (scene, column) in scenes.zip(0..COLUMNS) {
            println!("    {}", scene.caption());
            imageops::replace(&mut sheet, &scene.render(SIZE), (column * SIZE).into(), (row * SIZE).into());
        }
    }
    let scenes: Vec<_> = (0..10_000).map(|i| Scene::draw_at(0, i, Split::Train)).collect();
    let start = Instant::now();
    for scene in &scenes {
        std::hint::black_box(render(scene, SIZE));
    }
    let one = start.elapsed().as_secs_f64() / scenes.len() as f64;
    let start = Instant::now();
    std::hint::black_box(render_many(&scenes, SIZE));
    let all = start.elapsed().as_secs_f64() / scenes.len() as f64;
    println!("{:.1} µs a scene on one core, {:.1} µs on all", one * 1e6, all * 1e6);
    sheet.save(path)
}
