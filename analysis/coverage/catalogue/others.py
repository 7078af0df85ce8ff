"""Models of pytorchcv, segmentation-models-pytorch, MONAI and other libraries."""

from __future__ import annotations

from typing import Any

import torch

from .entry import Entry, Inputs, images, made_by, sequences, tokens


def _pytorchcv(name: str, size: int = 64, **options: Any) -> Entry:
    build = made_by("pytorchcv.model_provider", "get_model", name, pretrained=False, **options)
    return Entry("pytorchcv", name, "pytorchcv", build, images(size))


def _sized(name: str, size: int, **options: Any) -> Entry:
    """Models of pytorchcv that take the size of their images as an argument."""
    return _pytorchcv(name, size, in_size=(size, size), **options)


PYTORCHCV = [
    *(_pytorchcv(name, 32) for name in (
        "resnet20_cifar10", "preresnet20_cifar10", "seresnet20_cifar10", "sepreresnet20_cifar10",
        "resnext20_16x4d_cifar10", "pyramidnet110_a48_cifar10", "diaresnet20_cifar10", "diapreresnet20_cifar10",
        "ror3_56_cifar10", "shakeshakeresnet20_2x16d_cifar10", "resdropresnet20_cifar10",
        "shakedropresnet20_cifar10", "densenet40_k12_cifar10",
        "nin_cifar10", "msdnet22_cifar10")),
    *(_pytorchcv(name) for name in (
        "resneta10", "resnetabc14b", "resnesta18", "resnestabc14", "regnetx002", "regnety002", "efficientnet_b0",
        "efficientnet_edge_small_b",
        "simplepose_resnet18_coco", "centernet_resnet18_voc")),
    *(_pytorchcv(name, 224) for name in (  # their last pooling is over 7 x 7 values
        "resnet10", "resnet18_wd4", "resnetbc14b", "preresnet10", "preresnetbc14b", "seresnet10", "sepreresnet10",
        "resnext14_16x4d", "senet16", "ibn_resnet50", "airnet50_1x64d_r2", "bam_resnet18", "cbam_resnet18", "scnet50",
        "diaresnet10", "diapreresnet10", "sharesnet18", "octresnet10_ad2", "diracnet18v2", "drnc26", "drnd22",
        "dla46c", "hrnet_w18_small_v1", "vovnet27s", "selecsls42b", "peleenet", "mobilenet_wd4", "mobilenetv2_wd4",
        "mobilenetv2b_wd4", "mobilenetv3_small_wd2", "igcv3_wd4", "mnasnet_small", "proxylessnas_cpu", "spnasnet",
        "mixnet_s", "ghostnet", "shufflenet_g1_wd4", "shufflenetv2_wd2", "menet108_8x1_g3", "sqnxt23_w1",
        "squeezeresnet_v1_0", "revnet38", "dpn68", "xdensenet121_2", "fishnet99", "resattnet56", "espnetv2_wd2")),
    *(_sized(name, 64, num_classes=3) for name in (
        "linknet_cityscapes", "segnet_cityscapes", "enet_cityscapes", "erfnet_cityscapes", "esnet_cityscapes",
        "dabnet_cityscapes", "cgnet_cityscapes", "fpenet_cityscapes", "unet_cityscapes", "edanet_cityscapes",
        "ctxnet_cityscapes")),
    _sized("lednet_cityscapes", 128, num_classes=3),
    _sized("fastscnn_cityscapes", 128, num_classes=3),
    _sized("pspnet_resnetd50b_voc", 96, num_classes=3, aux=False),
    _sized("deeplabv3_resnetd50b_voc", 96, num_classes=3, aux=False),
    _sized("bisenet_resnet18_celebamaskhq", 64, num_classes=3),
]  # fmt: skip


def _smp(architecture: str, encoder: str, size: int = 64, **options: Any) -> Entry:
    build = made_by(
        "segmentation_models_pytorch", architecture, encoder_name=encoder, encoder_weights=None, classes=3, **options
    )
    return Entry("segmentation_models_pytorch", f"{architecture} {encoder}", "segmentation_models_pytorch", build,
                 images(size))  # fmt: skip


SEGMENTATION = [
    *(_smp(architecture, "resnet18") for architecture in (
        "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet")),
    _smp("PAN", "resnet18", 128),
    _smp("Segformer", "mit_b0"), _smp("Unet", "mobilenet_v2"), _smp("Unet", "efficientnet-b0"),
    _smp("Unet", "se_resnet50"), _smp("Unet", "mobileone_s0"), _smp("Unet", "timm-regnetx_002"),
    _smp("Unet", "densenet121"), _smp("FPN", "resnext50_32x4d"), _smp("Unet", "mit_b0"),
    _smp("DeepLabV3Plus", "mobilenet_v2"), _smp("Unet", "dpn68"),
    _smp("FPN", "efficientnet-b0"), _smp("Linknet", "resnet34"), _smp("Unet", "tu-convnext_atto"),
    _smp("Unet", "resnet50", decoder_attention_type="scse"),
]  # fmt: skip


def _monai(name: str, inputs: Inputs, label: str = "", **options: Any) -> Entry:
    return Entry("monai", label or name, "monai", made_by("monai.networks.nets", name, **options), inputs)


def _volume(size: int, channels: int = 1) -> Inputs:
    return images(size, size, size, channels=channels)


_IN_OUT: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}

MEDICAL = [
    _monai("ResNet", _volume(32), "ResNet, shortcut B", block="basic", layers=[1, 1, 1, 1], block_inplanes=[8, 16, 24,
        32], n_input_channels=1, num_classes=2),
    _monai("ResNet", _volume(32), "ResNet, shortcut A", block="basic", layers=[1, 1, 1, 1], block_inplanes=[8, 16, 24,
        32], n_input_channels=1, num_classes=2, shortcut_type="A"),
    _monai("ResNet", _volume(32), "ResNet, bottleneck", block="bottleneck", layers=[1, 2, 2, 1], block_inplanes=[8, 16,
        24, 32], n_input_channels=1, num_classes=2),
    _monai("SEResNet50", images(64), "SEResNet50", spatial_dims=2, in_channels=3, num_classes=2),
    _monai("SegResNet", _volume(32), init_filters=8, **_IN_OUT),
    _monai("SegResNetDS", _volume(32), init_filters=8, **_IN_OUT),
    _monai("UNet", _volume(32), "UNet, residual blocks", channels=(4, 8, 16), strides=(2, 2), num_res_units=2,
        **_IN_OUT),
    _monai("DynUNet", _volume(32), "DynUNet, residual", kernel_size=[3, 3, 3], strides=[1, 2, 2],
        upsample_kernel_size=[2, 2], filters=[4, 8, 16], res_block=True, **_IN_OUT),
    _monai("AttentionUnet", _volume(32), channels=(4, 8, 16), strides=(2, 2), **_IN_OUT),
    _monai("BasicUNet", _volume(32), features=(4, 4, 8, 8, 16, 4), **_IN_OUT),
    _monai("VNet", images(32, channels=1), spatial_dims=2, in_channels=1, out_channels=2),
    _monai("UNETR", _volume(32), img_size=32, feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4, **_IN_OUT),
    _monai("SwinUNETR", images(64, channels=1), feature_size=12, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4),
        spatial_dims=2, in_channels=1, out_channels=2),
    _monai("ViT", _volume(32), in_channels=1, img_size=(32, 32, 32), patch_size=(16, 16, 16), hidden_size=48,
        mlp_dim=96, num_layers=4, num_heads=4, classification=True),
    _monai("HighResNet", _volume(16), **_IN_OUT),
    _monai("EfficientNetBN", images(64), model_name="efficientnet-b0", pretrained=False, num_classes=2),
    _monai("FlexibleUNet", images(64), in_channels=3, out_channels=2, backbone="resnet18", pretrained=False),
    _monai("DenseNet121", _volume(32), spatial_dims=3, in_channels=1, out_channels=2),
    _monai("MedNeXtSmall", images(32, channels=1), label="MedNeXt", spatial_dims=2, in_channels=1, out_channels=2),
    _monai("DiffusionModelUNet", lambda batch, generator: {"x": torch.randn(
        batch, 1, 16, 16, generator=generator, dtype=torch.float64), "timesteps": torch.full((batch,), 7)},
        spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), attention_levels=(False, True),
        num_res_blocks=1, num_head_channels=8, norm_num_groups=4),
    _monai("restormer.Restormer", images(32), label="Restormer", spatial_dims=2, in_channels=3, out_channels=3,
        dim=8, num_blocks=(1, 1, 1, 1),
        heads=(1, 1, 2, 2), num_refinement_blocks=1),
]  # fmt: skip


def _vit_pytorch(module: str, name: str, size: int = 64, label: str = "", **options: Any) -> Entry:
    build = made_by(f"vit_pytorch.{module}", name, **options)
    return Entry("vit_pytorch", label or name, "vit_pytorch", build, images(size))


_LUCID: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "heads": 2,
    "mlp_dim": 48,
    "dim_head": 16,
}


def _diffusers(name: str, inputs: Inputs, **options: Any) -> Entry:
    return Entry("diffusers", name, "diffusers", made_by("diffusers", name, **options), inputs)


def _with_time(size: int, channels: int, **more: Any) -> Inputs:
    def make(batch: int, generator: torch.Generator) -> Any:
        sample = images(size, channels=channels)(batch, generator)
        return {"sample": sample, "timestep": torch.full((batch,), 7), **more}

    return make


def _conditioned(batch: int, generator: torch.Generator) -> Any:
    states = sequences(4, 16)(batch, generator)
    return {**_with_time(16, 4)(batch, generator), "encoder_hidden_states": states}


def _labelled(batch: int, generator: torch.Generator) -> Any:
    return {"hidden_states": images(8, channels=4)(batch, generator), "timestep": torch.full((batch,), 7),
            "class_labels": tokens(batch, 1, generator)[:, 0]}  # fmt: skip


def _super_image(module: str, model: str, **options: Any) -> Entry:
    def build() -> torch.nn.Module:
        import super_image

        config = getattr(super_image, f"{module}Config")(**options)
        made: torch.nn.Module = getattr(super_image, model)(config)
        return made

    return Entry("super_image", model, "super_image", build, images(12))


def _x_transformer(name: str, build: Any, inputs: Inputs) -> Entry:
    return Entry("x_transformers", name, "x_transformers", build, inputs)


def _language(**options: Any) -> Any:
    def build() -> torch.nn.Module:
        import x_transformers

        layers = x_transformers.Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, **options)
        made: torch.nn.Module = x_transformers.TransformerWrapper(num_tokens=99, max_seq_len=32, attn_layers=layers)
        return made

    return build


def _images_by_x() -> torch.nn.Module:
    import x_transformers

    layers = x_transformers.Encoder(dim=32, depth=2, heads=2, attn_dim_head=16)
    made: torch.nn.Module = x_transformers.ViTransformerWrapper(
        image_size=32, patch_size=16, num_classes=5, attn_layers=layers
    )
    return made


def _some_tokens(batch: int, generator: torch.Generator) -> Any:
    return tokens(batch, 10, generator)


def _speech(features: int, frames: int = 20) -> Inputs:
    def make(batch: int, generator: torch.Generator) -> Any:
        return sequences(frames, features)(batch, generator), torch.full((batch,), frames)

    return make


OTHERS = [
    _vit_pytorch("vit", "ViT", depth=3, **_LUCID),
    _vit_pytorch("simple_vit", "SimpleViT", depth=3, **_LUCID),
    _vit_pytorch("deepvit", "DeepViT", depth=3, **_LUCID),
    _vit_pytorch("parallel_vit", "ViT", label="ViT, parallel branches", depth=2, num_parallel_branches=2, **_LUCID),
    _vit_pytorch("cait", "CaiT", depth=2, cls_depth=2, **_LUCID),
    _vit_pytorch("xcit", "XCiT", depth=2, cls_depth=2, local_patch_kernel_size=3, **_LUCID),
    _vit_pytorch("cct", "CCT", img_size=64, embedding_dim=32, n_conv_layers=1, num_layers=2, num_heads=2, mlp_ratio=2.,
        num_classes=5),
    _vit_pytorch("cvt", "CvT", num_classes=5, s1_emb_dim=8, s2_emb_dim=16, s3_emb_dim=24, s1_heads=1, s2_heads=2,
        s3_heads=2, s3_depth=2),
    _vit_pytorch("cross_vit", "CrossViT", image_size=64, num_classes=5, depth=2, sm_dim=16, lg_dim=24, sm_patch_size=8,
        lg_patch_size=16, sm_enc_depth=1, sm_enc_heads=2, sm_enc_mlp_dim=32, lg_enc_depth=1, lg_enc_heads=2,
        lg_enc_mlp_dim=32, cross_attn_depth=1, cross_attn_heads=2),
    _vit_pytorch("levit", "LeViT", 64, image_size=64, num_classes=5, stages=2, dim=(16, 32), depth=2, heads=(2, 4),
        mlp_mult=2, dim_key=8, dim_value=16),
    _vit_pytorch("pit", "PiT", image_size=64, patch_size=8, dim=16, num_classes=5, depth=(1, 2), heads=2, mlp_dim=32),
    _vit_pytorch("t2t", "T2TViT", dim=32, image_size=64, depth=2, heads=2, mlp_dim=48, num_classes=5,
        t2t_layers=((7, 4), (3, 2))),
    _vit_pytorch("twins_svt", "TwinsSVT", 64, num_classes=5, s1_emb_dim=8, s2_emb_dim=16, s3_emb_dim=24, s4_emb_dim=32,
        s1_local_patch_size=4, s2_local_patch_size=4, s3_local_patch_size=2, s4_local_patch_size=1,
        s1_global_k=4, s2_global_k=4, s3_global_k=2, s4_global_k=1, s3_depth=2),
    _vit_pytorch("regionvit", "RegionViT", 224, dim=(16, 24, 32, 48), depth=(1, 1, 1, 1), window_size=7, num_classes=5),
    _vit_pytorch("mobile_vit", "MobileViT", image_size=(64, 64), dims=[24, 32, 40], channels=[8, 8, 12, 12, 16, 16, 24,
        24, 32, 32, 48], num_classes=5),
    _vit_pytorch("max_vit", "MaxViT", 64, num_classes=5, dim_conv_stem=8, dim=16, dim_head=8, depth=(1, 1),
        window_size=4),
    _vit_pytorch("nest", "NesT", 64, image_size=64, patch_size=4, dim=16, heads=2, num_hierarchies=3,
        block_repeats=(1, 1, 2), num_classes=5),
    _vit_pytorch("scalable_vit", "ScalableViT", 64, num_classes=5, dim=16, heads=(1, 2), depth=(1, 2),
        ssa_dim_key=(8, 8), reduction_factor=(2, 1), window_size=(8, 4)),
    Entry("vit_pytorch", "ViT, three dimensions", "vit_pytorch", made_by(
        "vit_pytorch.vit_3d", "ViT", frames=4, frame_patch_size=2, depth=2, image_size=64,
        image_patch_size=16, num_classes=5, dim=32, heads=2, mlp_dim=48, dim_head=16), images(4, 64, 64)),
    _x_transformer("decoder", _language(), _some_tokens),
    _x_transformer("decoder with rotary positions", _language(rotary_pos_emb=True), _some_tokens),
    _x_transformer("images", _images_by_x, images(32)),
    Entry("torchaudio", "Conformer", "torchaudio", made_by("torchaudio.models", "Conformer", input_dim=16, num_heads=2,
        ffn_dim=32, num_layers=2, depthwise_conv_kernel_size=5), _speech(16)),
    Entry("torchaudio", "Emformer", "torchaudio", made_by("torchaudio.models", "Emformer", 16, 2, 32, 2, 4,
        right_context_length=4), _speech(16)),
    Entry("torchaudio", "ConvTasNet", "torchaudio", made_by("torchaudio.models", "ConvTasNet", enc_num_feats=16,
        msk_num_feats=8, msk_num_hidden_feats=16, msk_num_layers=2, msk_num_stacks=2),
        lambda batch, generator: torch.randn(
            batch, 1, 800, generator=generator, dtype=torch.float64)),
    Entry("torchaudio", "HDemucs", "torchaudio", made_by("torchaudio.models", "HDemucs", ["a", "b"], channels=8,
        depth=5),
        lambda batch, generator: torch.randn(batch, 2, 8192, generator=generator, dtype=torch.float64)),
    Entry("torchaudio", "Wav2Letter", "torchaudio", made_by("torchaudio.models", "Wav2Letter", num_classes=5,
        input_type="mfcc", num_features=16), lambda batch, generator: torch.randn(
            batch, 16, 200, generator=generator, dtype=torch.float64)),
    _diffusers("UNet2DModel", _with_time(16, 3), sample_size=16, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D",
        "UpBlock2D"), attention_head_dim=8),
    _diffusers("UNet2DConditionModel", _conditioned, sample_size=16, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=(
        "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4),
    _diffusers("AutoencoderKL", lambda batch, generator: {"sample": images(32)(batch, generator)},
        block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4),
    _diffusers("DiTTransformer2DModel", _labelled, num_attention_heads=2, attention_head_dim=8, in_channels=4,
        num_layers=2, sample_size=8, norm_num_groups=4),
    _super_image("Edsr", "EdsrModel", scale=2, n_resblocks=4, n_feats=8),
    _super_image("Rcan", "RcanModel", scale=2, n_resgroups=2, n_resblocks=2, n_feats=16),
    _super_image("Msrn", "MsrnModel", scale=2),
    _super_image("Carn", "CarnModel", scale=2),
    _super_image("Awsrn", "AwsrnModel", scale=2),
    Entry("efficientnet_pytorch", "efficientnet-b0", "efficientnet_pytorch", made_by(
        "efficientnet_pytorch", "EfficientNet.from_name", "efficientnet-b0"), images(64)),
    Entry("facenet_pytorch", "InceptionResnetV1", "facenet_pytorch", made_by(
        "facenet_pytorch", "InceptionResnetV1"), images(96)),
    Entry("conformer", "Conformer", "conformer", made_by("conformer", "Conformer", dim=32, depth=2, dim_head=16,
        heads=2, conv_kernel_size=7), sequences(12, 32)),
    Entry("mlp_mixer_pytorch", "MLPMixer", "mlp_mixer_pytorch", made_by("mlp_mixer_pytorch", "MLPMixer", image_size=32,
        channels=3, patch_size=8, dim=24, depth=3, num_classes=5), images(32)),
    Entry("g_mlp_pytorch", "gMLPVision", "g_mlp_pytorch", made_by("g_mlp_pytorch", "gMLPVision", image_size=32,
        patch_size=8, num_classes=5, dim=24, depth=3), images(32)),
    *(Entry("pretrainedmodels", name, "pretrainedmodels", made_by(
        "pretrainedmodels", name, num_classes=5, pretrained=None), images(size)) for name, size in (
        ("se_resnet50", 224), ("dpn68", 224), ("xception", 96))),
    *(Entry("dynamic_network_architectures", name, "dynamic_network_architectures", made_by(
        f"dynamic_network_architectures.architectures.{module}", name, input_channels=1, n_stages=3,
        features_per_stage=(4, 8, 16), conv_op=torch.nn.Conv3d, kernel_sizes=3, strides=(1, 2, 2),
        num_classes=2, norm_op=torch.nn.InstanceNorm3d, nonlin=torch.nn.LeakyReLU, conv_bias=True,
        n_conv_per_stage_decoder=1, **options), _volume(16)) for module, name, options in (
        ("unet", "ResidualEncoderUNet", {"n_blocks_per_stage": (1, 2, 2)}),
        ("unet", "PlainConvUNet", {"n_conv_per_stage": 2}))),
    Entry("torch", "nn.TransformerEncoder", "torch", lambda: torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False),
        sequences(6, 16)),
    Entry("torch", "nn.Transformer", "torch", made_by("torch.nn", "Transformer", 16, 2, 2, 2, 32, batch_first=True),
        lambda batch, generator: (sequences(6, 16)(batch, generator), sequences(4, 16)(batch, generator))),
]  # fmt: skip
