//! Compiles our issuing protocol and the SPIFFE Workload API, without a system `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["issuer.proto", "workload.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallCodec")
        .compile_fds(files)?;
    Ok(())
}
