mod plan;
mod sys;
mod wire;
fn main() {}
