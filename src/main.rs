mod init;
mod plan;
mod sys;
mod wire;
fn main() {}
