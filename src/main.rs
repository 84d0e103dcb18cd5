mod plan;
mod sys;
fn main() {}
