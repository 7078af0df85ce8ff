"""Models of Hugging Face transformers, made from small configurations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .entry import Entry, Inputs, images, tokens

_BERT = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 99,
    "max_position_embeddings": 64,
}  # fmt: skip
_LLAMA = {**_BERT, "num_key_value_heads": 1, "pad_token_id": 0, "use_cache": False}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 99,
    "max_position_embeddings": 64, "use_cache": False,
}  # fmt: skip
_VIT = {
    "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
_WAVE = {
    **_BERT, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False,
}  # fmt: skip


def _build(model: str, config: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
    return made


def _entry(model: str, config: str, inputs: Inputs, options: dict[str, Any], name: str = "") -> Entry:
    return Entry("transformers", name or model, "transformers", lambda: _build(model, config, options), inputs)


def _ids(batch: int, generator: torch.Generator) -> Any:
    return {"input_ids": tokens(batch, 10, generator)}


def _both_ids(batch: int, generator: torch.Generator) -> Any:
    return {"input_ids": tokens(batch, 10, generator), "decoder_input_ids": tokens(batch, 7, generator)}


def _pixels(*size: int, key: str = "pixel_values") -> Inputs:
    return lambda batch, generator: {key: images(*size)(batch, generator)}


def _frames(frames: int, size: int) -> Inputs:
    def make(batch: int, generator: torch.Generator) -> Any:
        shape = (batch, frames, 3, size, size)
        return {"pixel_values": torch.randn(*shape, generator=generator, dtype=torch.float64)}

    return make


def _wave(length: int) -> Inputs:
    def make(batch: int, generator: torch.Generator) -> Any:
        return {"input_values": torch.randn(batch, length, generator=generator, dtype=torch.float64)}

    return make


def _pixels_and_ids(size: int) -> Inputs:
    return lambda batch, generator: {
        "input_ids": tokens(batch, 10, generator),
        "pixel_values": images(size)(batch, generator),
    }


def _mel_and_ids(batch: int, generator: torch.Generator) -> Any:
    mel = torch.randn(batch, 80, 40, generator=generator, dtype=torch.float64)
    return {"input_features": mel, "decoder_input_ids": tokens(batch, 7, generator)}


def _series(batch: int, generator: torch.Generator) -> Any:
    return {"past_values": torch.randn(batch, 32, 3, generator=generator, dtype=torch.float64)}


_ENCODERS = {
    "BertModel": "BertConfig", "RobertaModel": "RobertaConfig", "ElectraModel": "ElectraConfig",
    "DebertaV2Model": "DebertaV2Config", "DebertaModel": "DebertaConfig", "MPNetModel": "MPNetConfig",
    "ConvBertModel": "ConvBertConfig", "NystromformerModel": "NystromformerConfig", "RemBertModel": "RemBertConfig",
    "MegatronBertModel": "MegatronBertConfig", "RoFormerModel": "RoFormerConfig", "LayoutLMModel": "LayoutLMConfig",
    "FNetModel": "FNetConfig", "EsmModel": "EsmConfig", "CamembertModel": "CamembertConfig",
    "RobertaPreLayerNormModel": "RobertaPreLayerNormConfig", "BigBirdModel": "BigBirdConfig",
}  # fmt: skip
_SPECIAL: dict[str, dict[str, Any]] = {
    "ElectraModel": {"embedding_size": 16}, "FNetModel": {"use_tpu_fourier_optimizations": False},
    "ConvBertModel": {"embedding_size": 32, "conv_kernel_size": 3}, "BigBirdModel": {"attention_type": "original_full"},
    "EsmModel": {"pad_token_id": 1, "mask_token_id": 98}, "NystromformerModel": {"segment_means_seq_len": 10,
    "num_landmarks": 10}, "RemBertModel": {"input_embedding_size": 16, "output_embedding_size": 16},
}  # fmt: skip
_DECODERS = {
    "LlamaForCausalLM": "LlamaConfig", "MistralForCausalLM": "MistralConfig", "Qwen2ForCausalLM": "Qwen2Config",
    "Qwen3ForCausalLM": "Qwen3Config", "GemmaForCausalLM": "GemmaConfig", "Gemma2ForCausalLM": "Gemma2Config",
    "Gemma3ForCausalLM": "Gemma3TextConfig", "PhiForCausalLM": "PhiConfig", "Phi3ForCausalLM": "Phi3Config",
    "StableLmForCausalLM": "StableLmConfig", "CohereForCausalLM": "CohereConfig", "OlmoForCausalLM": "OlmoConfig",
    "Olmo2ForCausalLM": "Olmo2Config", "GraniteForCausalLM": "GraniteConfig", "Starcoder2ForCausalLM":
    "Starcoder2Config", "PersimmonForCausalLM": "PersimmonConfig",
    "NemotronForCausalLM": "NemotronConfig", "SmolLM3ForCausalLM": "SmolLM3Config", "GPTNeoXForCausalLM":
    "GPTNeoXConfig",
}  # fmt: skip
_DECODER_SPECIAL: dict[str, dict[str, Any]] = {
    "GemmaForCausalLM": {"head_dim": 16}, "Gemma2ForCausalLM": {"head_dim": 16}, "Gemma3ForCausalLM": {"head_dim": 16},
    "Qwen3ForCausalLM": {"head_dim": 16},
}  # fmt: skip

HUGGING_FACE = [
    *(_entry(model, config, _ids, {**_BERT, **_SPECIAL.get(model, {})}) for model, config in _ENCODERS.items()),
    *(_entry(model, config, _ids, {**_LLAMA, **_DECODER_SPECIAL.get(model, {})})
      for model, config in _DECODERS.items()),
    _entry("ModernBertModel", "ModernBertConfig", _ids, {
        **_BERT, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}),
    _entry("AlbertModel", "AlbertConfig", _ids, {**_BERT, "embedding_size": 16}),
    _entry("DistilBertModel", "DistilBertConfig", _ids, {
        "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48, "vocab_size": 99}),
    _entry("MobileBertModel", "MobileBertConfig", _ids, {
        **_BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    _entry("SqueezeBertModel", "SqueezeBertConfig", _ids, {**_BERT, "embedding_size": 32}),
    _entry("XLNetModel", "XLNetConfig", _ids, {
        "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48, "vocab_size": 99, "use_mems_eval": False}),
    _entry("XLMModel", "XLMConfig", _ids, {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "n_words": 99}),
    _entry("LongformerModel", "LongformerConfig", _ids, {**_BERT, "attention_window": 4}),
    _entry("FunnelModel", "FunnelConfig", _ids, {
        "d_model": 32, "block_sizes": [1, 1], "n_head": 2, "d_head": 16, "d_inner": 48, "vocab_size": 99}),
    _entry("GPT2LMHeadModel", "GPT2Config", _ids, {
        "n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99, "use_cache": False}),
    _entry("GPTNeoForCausalLM", "GPTNeoConfig", _ids, {
        "hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 2,
        "vocab_size": 99, "use_cache": False}),
    _entry("GPTJForCausalLM", "GPTJConfig", _ids, {
        "n_embd": 32, "n_layer": 3, "n_head": 2, "rotary_dim": 8, "vocab_size": 99, "use_cache": False}),
    _entry("OPTForCausalLM", "OPTConfig", _ids, {
        **_BERT, "ffn_dim": 48, "word_embed_proj_dim": 32, "use_cache": False}),
    _entry("BloomForCausalLM", "BloomConfig", _ids, {
        "hidden_size": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99, "use_cache": False}),
    _entry("CodeGenForCausalLM", "CodeGenConfig", _ids, {
        "n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "vocab_size": 99, "use_cache": False}),
    _entry("FalconForCausalLM", "FalconConfig", _ids, {**_BERT, "use_cache": False}),
    _entry("MptForCausalLM", "MptConfig", _ids, {
        "d_model": 32, "n_heads": 2, "n_layers": 3, "vocab_size": 99, "use_cache": False}),
    _entry("MambaForCausalLM", "MambaConfig", _ids, {
        "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4, "vocab_size": 99, "use_cache": False}),
    _entry("Mamba2ForCausalLM", "Mamba2Config", _ids, {
        "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "vocab_size": 99, "num_heads": 4, "head_dim": 16,
        "n_groups": 1, "chunk_size": 8, "use_cache": False}),
    _entry("RwkvForCausalLM", "RwkvConfig", _ids, {
        "hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 99, "use_cache": False}),
    _entry("T5Model", "T5Config", _both_ids, {
        "d_model": 32, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 48, "vocab_size": 99, "use_cache": False}),
    *(_entry(f"{name}Model", f"{name}Config", _both_ids, _BART)
      for name in ("Bart", "Pegasus", "MBart", "Blenderbot", "M2M100")),
    _entry("WhisperModel", "WhisperConfig", _mel_and_ids, {
        **_BART, "num_mel_bins": 80, "max_source_positions": 20, "max_target_positions": 20, "pad_token_id": 0}),
    _entry("ViTModel", "ViTConfig", _pixels(32), _VIT), _entry("DeiTModel", "DeiTConfig", _pixels(32), _VIT),
    _entry("BeitModel", "BeitConfig", _pixels(32), {**_VIT, "layer_scale_init_value": 0.1}),
    _entry("Dinov2Model", "Dinov2Config", _pixels(32), {**_VIT, "mlp_ratio": 2}),
    _entry("DINOv3ViTModel", "DINOv3ViTConfig", _pixels(32), {**_VIT, "num_hidden_layers": 3}),
    _entry("ViTMSNModel", "ViTMSNConfig", _pixels(32), _VIT), _entry("YolosModel", "YolosConfig", _pixels(32), {
        **_VIT, "image_size": [32, 32], "use_mid_position_embeddings": False}),
    _entry("IJepaModel", "IJepaConfig", _pixels(32), _VIT),
    _entry("Data2VecVisionModel", "Data2VecVisionConfig", _pixels(32), {**_VIT, "layer_scale_init_value": 0.1}),
    _entry("SwinModel", "SwinConfig", _pixels(64), {
        "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}),
    _entry("Swinv2Model", "Swinv2Config", _pixels(64), {
        "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}),
    _entry("ConvNextModel", "ConvNextConfig", _pixels(64), {"hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 3, 2]}),
    _entry("ConvNextV2Model", "ConvNextV2Config", _pixels(64), {
        "hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 3, 2]}),
    _entry("ResNetModel", "ResNetConfig", _pixels(64), {
        "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [2, 2, 2, 2], "layer_type": "basic"}),
    _entry("ResNetModel", "ResNetConfig", _pixels(64), {
        "embedding_size": 8, "hidden_sizes": [16, 32, 64, 96], "depths": [3, 4, 6, 3]}, "ResNetModel, 50 layers"),
    _entry("ResNetBackbone", "ResNetConfig", _pixels(64), {
        "embedding_size": 8, "hidden_sizes": [16, 32, 64, 96], "depths": [2, 2, 2, 2],
        "out_features": ["stage2", "stage3", "stage4"]}),
    _entry("BitModel", "BitConfig", _pixels(64), {
        "embedding_size": 8, "hidden_sizes": [16, 32, 64, 96], "depths": [2, 2, 2, 2], "num_groups": 4}),
    _entry("RegNetModel", "RegNetConfig", _pixels(64), {
        "embedding_size": 8, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 2, 1], "groups_width": 8}),
    _entry("MobileNetV1Model", "MobileNetV1Config", _pixels(64), {"depth_multiplier": 0.25}),
    _entry("MobileNetV2Model", "MobileNetV2Config", _pixels(64), {"depth_multiplier": 0.35}),
    _entry("MobileViTModel", "MobileViTConfig", _pixels(64), {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 48]}),
    _entry("MobileViTV2Model", "MobileViTV2Config", _pixels(64), {"width_multiplier": 0.25, "image_size": 64}),
    _entry("EfficientNetModel", "EfficientNetConfig", _pixels(64), {"width_coefficient": 0.25, "hidden_dim": 320}),
    _entry("SegformerModel", "SegformerConfig", _pixels(64), {
        "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4]}),
    _entry("SegformerForSemanticSegmentation", "SegformerConfig", _pixels(64), {
        "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16}),
    _entry("PoolFormerModel", "PoolFormerConfig", _pixels(64), {
        "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32]}),
    _entry("PvtModel", "PvtConfig", _pixels(64), {
        "image_size": 64, "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4],
        }),
    _entry("PvtV2Model", "PvtV2Config", _pixels(64), {
        "image_size": 64, "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32],
        "num_attention_heads": [1, 2, 2, 4]}),
    _entry("LevitModel", "LevitConfig", _pixels(64), {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2],
        "key_dim": [8, 8, 8]}),
    _entry("FocalNetModel", "FocalNetConfig", _pixels(64), {
        "image_size": 64, "embed_dim": 16, "depths": [2, 2, 2, 2]}),
    _entry("HieraModel", "HieraConfig", _pixels(224), {
        "embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8]}),
    _entry("GLPNForDepthEstimation", "GLPNConfig", _pixels(64), {
        "depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16}),
    _entry("DPTForSemanticSegmentation", "DPTConfig", _pixels(32), {
        **_VIT, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 16,
        "is_hybrid": False}),
    _entry("SwiftFormerModel", "SwiftFormerConfig", _pixels(64), {
        "depths": [1, 1, 2, 1], "embed_dims": [16, 24, 32, 48]}),
    _entry("Swin2SRModel", "Swin2SRConfig", _pixels(32), {
        "image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "patch_size": 1}),
    _entry("VideoMAEModel", "VideoMAEConfig", _frames(4, 32), {**_VIT, "num_frames": 4}),
    _entry("TimesformerModel", "TimesformerConfig", _frames(2, 32), {**_VIT, "num_frames": 2}),
    _entry("VivitModel", "VivitConfig", _frames(4, 32), {**_VIT, "num_frames": 4, "tubelet_size": [2, 16, 16]}),
    _entry("CLIPModel", "CLIPConfig", _pixels_and_ids(32), {
        "text_config": {**_BERT, "eos_token_id": 98}, "vision_config": _VIT, "projection_dim": 16}),
    _entry("SiglipModel", "SiglipConfig", _pixels_and_ids(32), {
        "text_config": {**_BERT, "projection_size": 24}, "vision_config": _VIT}),
    _entry("DetrForObjectDetection", "DetrConfig", _pixels(64), {
        "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": {
            "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
            "layer_type": "basic", "out_features": ["stage4"]},
        **{key: value for key, value in _BART.items() if key not in ("vocab_size", "use_cache")}, "num_queries": 5}),
    *(_entry(f"{name}Model", f"{name}Config", _wave(1200), _WAVE)
      for name in ("Wav2Vec2", "Hubert", "WavLM", "UniSpeech", "Data2VecAudio", "Wav2Vec2Conformer")),
    _entry("ASTModel", "ASTConfig", lambda batch, generator: {"input_values": torch.randn(
        batch, 32, 16, generator=generator, dtype=torch.float64)}, {
        **_VIT, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8}),
    _entry("PatchTSTModel", "PatchTSTConfig", _series, {
        "num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_hidden_layers": 2,
        "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32}),
    _entry("PatchTSMixerModel", "PatchTSMixerConfig", _series, {
        "num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "num_layers": 2,
        "d_model": 16}),
]  # fmt: skip
