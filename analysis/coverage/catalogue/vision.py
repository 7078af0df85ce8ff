"""Models of torchvision and timm (one of every module of timm), pytorchcv and other libraries of image classifiers."""

from __future__ import annotations

from typing import Any

from .entry import Entry, images, list_of_images, made_by


def _torchvision(name: str, size: int = 64, **options: Any) -> Entry:
    build = made_by("torchvision.models", "get_model", name, weights=None, **options)
    return Entry("torchvision", name, "torchvision", build, images(size))


def _backbone_free(name: str, size: int = 64, **options: Any) -> Entry:
    """Models for dense prediction load the weights of their backbone by default, so this turns that off."""
    return _torchvision(name, size, weights_backbone=None, **options)


def _video(name: str, *size: int, **options: Any) -> Entry:
    build = made_by("torchvision.models", "get_model", name, weights=None, **options)
    return Entry("torchvision", name, "torchvision", build, images(*size))


TORCHVISION = [
    *(_torchvision(name) for name in (
        "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "regnet_x_400mf",
        "regnet_y_400mf", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
        "efficientnet_b0", "efficientnet_v2_s", "mnasnet1_0", "densenet121", "squeezenet1_1",
        "shufflenet_v2_x0_5", "swin_t", "swin_v2_t")),
    _torchvision("googlenet", init_weights=False, aux_logits=False),
    _torchvision("inception_v3", 96, init_weights=False, aux_logits=False),
    _torchvision("vit_b_16", 32, image_size=32),
    _torchvision("maxvit_t", 224),
    _video("r3d_18", 4, 32, 32), _video("mc3_18", 4, 32, 32), _video("r2plus1d_18", 4, 32, 32),
    _video("swin3d_t", 4, 64, 64),
    _backbone_free("fcn_resnet50"), _backbone_free("deeplabv3_resnet50"),
    _backbone_free("deeplabv3_mobilenet_v3_large"), _backbone_free("lraspp_mobilenet_v3_large"),
    Entry("torchvision", "resnet18 with a feature pyramid", "torchvision", made_by(
        "torchvision.models.detection.backbone_utils", "resnet_fpn_backbone", backbone_name="resnet18", weights=None),
        images(64)),
    Entry("torchvision", "fasterrcnn_resnet50_fpn", "torchvision", made_by(
        "torchvision.models.detection", "fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None, min_size=64,
        max_size=64, num_classes=3, rpn_post_nms_top_n_test=20, box_score_thresh=0.0,
        bbox_reg_weights=(500.0,) * 4), list_of_images(64)),  # random boxes would lie outside the image
    Entry("torchvision", "retinanet_resnet50_fpn", "torchvision", made_by(
        "torchvision.models.detection", "retinanet_resnet50_fpn", weights=None, weights_backbone=None, min_size=64,
        max_size=64, num_classes=3), list_of_images(64)),
    Entry("torchvision", "ssdlite320_mobilenet_v3_large", "torchvision", made_by(
        "torchvision.models.detection", "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None,
        num_classes=3), list_of_images(320)),
]  # fmt: skip


def _timm(name: str, size: int = 64, **options: Any) -> Entry:
    return Entry("timm", name, "timm", made_by("timm", "create_model", name, **options), images(size))


def _timm_sized(name: str, size: int = 64, **options: Any) -> Entry:
    """Transformers that take the size of their images as an argument."""
    return _timm(name, size, img_size=size, **options)


_SMALL = {"depth": 3, "embed_dim": 64, "num_heads": 2}

TIMM = [
    *(_timm(name) for name in (
        "test_byobnet", "mobileone_s1", "gernet_s", "repvgg_a0", "resnet33ts", "convnext_zepto_rms", "convnextv2_atto",
        "cpubone_nano", "cs3darknet_s", "cspresnet50", "cspresnext50", "darknet53", "cspnext_tiny", "davit_tiny",
        "densenet121", "dla34", "dla46x_c", "dla60_res2net", "dpn48b", "edgenext_xx_small", "mnasnet_small",
        "mixnet_s", "efficientnet_b0", "efficientvit_b0", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf",
        "ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "hardcorenas_a", "hgnetv2_b0", "hgnet_tiny",
        "hrnet_w18_small", "inception_next_atto", "lcnetv2_small", "lcnet_050", "lowformer_b0", "test_mambaout",
        "poolformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18", "mobilenetv3_small_050",
        "mobilenetv4_conv_small_035", "mobilevit_xxs", "mobilevitv2_050", "nextvit_small", "test_nfnet",
        "nf_regnet_b0", "nf_resnet26", "nf_seresnet26", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002",
        "regnetz_005", "repghostnet_050", "repvit_m0_9", "res2net50_26w_4s", "resnest14d", "test_resnet", "resnet26d",
        "resnet50d", "resnetblur18", "seresnet18", "ecaresnet26t", "resnetaa34d", "resnetrs50", "resnetv2_18",
        "resnetv2_50d", "rexnet_100", "selecsls42", "legacy_seresnet18", "legacy_seresnext26_32x4d", "skresnet18",
        "starnet_s050", "swiftformer_xs", "tresnet_m", "ese_vovnet19b_slim_dw", "eca_vovnet39b",
        "xcit_nano_12_p16_224")),
    *(_timm(name, 96) for name in (
        "inception_resnet_v2", "inception_v3", "inception_v4", "legacy_xception", "xception41", "xception41p")),
    *(_timm(name, 224) for name in (
        "efficientformer_l1", "efficientformerv2_s0", "efficientvim_m1", "efficientvit_m0", "gcvit_xxtiny",
        "hiera_tiny_224", "iformer_t", "levit_128s", "levit_conv_128s", "mvitv2_tiny", "nest_tiny",
        "pit_ti_224", "pit_ti_distilled_224", "sequencer2d_s", "shvit_s1", "swinv2_cr_tiny_224", "tiny_vit_5m_224",
        "tnt_s_patch16_224", "twins_svt_small", "twins_pcpvt_small", "visformer_tiny", "vit_tiny_r_s16_p8_224",
        "vitamin_small_224", "volo_d1_224", "coatnet_pico_rw_224", "coatnext_nano_rw_224")),
    *(_timm(name, 256) for name in (
        "eca_botnext26ts_256", "eca_halonext26ts", "lambda_resnet26t", "bat_resnext26ts", "csatv2",
        "maxvit_pico_rw_256", "hieradet_small")),
    *(_timm_sized(name) for name in (
        "cait_xxs24_224", "coat_tiny", "coat_lite_tiny", "convit_tiny", "vit_pe_core_tiny_patch16_384",
        "vit_small_patch16_dinov3", "gmlp_ti16_224", "gmixer_12_224", "resmlp_12_224", "mixer_s32_224",
        "vit_relpos_small_patch16_224", "swinv2_tiny_window8_256")),
    *(_timm_sized(name, 32) for name in (
        "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "vit_tiny_patch16_224",
        "vit_small_patch16_224")),
    *(_timm_sized(name, 56) for name in ("eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224")),
    _timm_sized("beit_base_patch16_224", 32, **_SMALL),
    _timm_sized("beitv2_base_patch16_224", 32, **_SMALL),
    _timm_sized("vit_base_patch16_xp_224", 32, **_SMALL),
    _timm_sized("naflexvit_base_patch16_gap", 64, **_SMALL),
    _timm_sized("qwen3_vit_88m", 64, **_SMALL),
    _timm_sized("gemma4_vit_167m", 96, **_SMALL),
    _timm("samvit_base_patch16_224", 224, **_SMALL),
    _timm("deepseek_vit_412m", 56, **_SMALL),
    _timm("convmixer_768_32", 56),
    _timm("crossvit_tiny_240", 240),
    _timm("mobilenetv4_hybrid_medium", 224),
    _timm("test_vit2", 160), _timm("test_vit3", 160),

    Entry("timm", "resnet18, features only", "timm", made_by(
        "timm", "create_model", "resnet18", features_only=True), images(64)),
    Entry("timm", "mobilenetv3_small_050, features only", "timm", made_by(
        "timm", "create_model", "mobilenetv3_small_050", features_only=True), images(64)),
]  # fmt: skip
