//! Draws a contact sheet of the world, pips (five to train on, others) in the last row: `cargo run --release -p ipa-pocket --example sheet -- sheet.png`.

use std::time::Instant;

use image::{RgbImage, imageops};
use ipa_pocket::{Scene, Split, caption, mascot, render};

const COLUMNS: u32 = 12;
const ROWS: u32 = 10;
const SIZE: u32 = 64;

fn main() -> image::ImageResult<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "sheet.png".to_owned());
    let mut sheet = RgbImage::new(COLUMNS * SIZE, (ROWS + 1) * SIZE);
    for index in 0..COLUMNS * ROWS {
        let scene = Scene::draw_at(0, index.into(), Split::Train);
        println!("{index:3} {}", caption(&scene, 0, index.into()));
        let (x, y) = (index % COLUMNS * SIZE, index / COLUMNS * SIZE);
        imageops::replace(&mut sheet, &render(&scene, SIZE), x.into(), y.into());
    }
    let pips = mascot::training().into_iter().chain(mascot::held_out(COLUMNS as usize));
    for (pip, column) in pips.zip(0..COLUMNS) {
        println!("    {}", mascot::caption(&pip));
        let (x, y) = (column * SIZE, ROWS * SIZE);
        imageops::replace(&mut sheet, &mascot::render(&pip, SIZE), x.into(), y.into());
    }
    let scenes: Vec<_> = (0..10_000).map(|i| Scene::draw_at(0, i, Split::Train)).collect();
    let start = Instant::now();
    for scene in &scenes {
        std::hint::black_box(render(scene, SIZE));
    }
    println!("{:.1} µs a scene", start.elapsed().as_secs_f64() * 1e6 / scenes.len() as f64);
    sheet.save(path)
}
