/* The part of ONNX Runtime's C API that libemulator calls, declared here so that no build needs its headers.
 *
 * OrtGetApiBase()->GetApi(version) gives a table of functions, to which later versions only append; so one declaration
 * serves every library from ORT_API_VERSION_USED on. The numbers are positions in struct OrtApi of
 * onnxruntime_c_api.h; slots that are not called are left out by name. */
#ifndef EMU_BACKEND_ONNXRUNTIME_API_H
#define EMU_BACKEND_ONNXRUNTIME_API_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_API_VERSION_USED = 19 }; /* ONNX Runtime 1.19, August 2024: the oldest that was tried */

typedef struct ort_status ort_status; /* NULL: success */
typedef struct ort_env ort_env;
typedef struct ort_session ort_session;
typedef struct ort_session_options ort_session_options;
typedef struct ort_run_options ort_run_options;
typedef struct ort_memory_info ort_memory_info;
typedef struct ort_value ort_value;
typedef struct ort_type_info ort_type_info;
typedef struct ort_tensor_info ort_tensor_info;
typedef struct ort_allocator ort_allocator;

enum { ORT_FLOAT = 1, ORT_DOUBLE = 11 };                    /* ONNXTensorElementDataType */
enum { ORT_TENSOR = 1 };                                    /* ONNXType */
enum { ORT_INVALID_PROTOBUF = 7, ORT_INVALID_GRAPH = 10 };  /* OrtErrorCode */
enum { ORT_LOG_FATAL = 4 };                                 /* OrtLoggingLevel */
enum { ORT_SEQUENTIAL = 0 };                                /* ExecutionMode */
enum { ORT_ARENA_ALLOCATOR = 1, ORT_MEMORY_DEFAULT = 0 };   /* OrtAllocatorType, OrtMemType */

typedef void (*ort_unused)(void);
typedef void (*ort_logger)(void *parameter, int severity, const char *category, const char *id, const char *location,
                           const char *message);

typedef struct {
    ort_unused unused_0;
    int (*get_error_code)(const ort_status *);
    const char *(*get_error_message)(const ort_status *);
    ort_unused unused_3;
    ort_status *(*create_env_with_logger)(ort_logger, void *parameter, int severity, const char *id, ort_env **);
    ort_unused unused_5;
    ort_status *(*disable_telemetry)(const ort_env *);
    ort_unused unused_7;
    ort_status *(*create_session_from_array)(const ort_env *, const void *bytes, size_t size,
                                             const ort_session_options *, ort_session **);
    ort_status *(*run)(ort_session *, const ort_run_options *, const char *const *input_names,
                       const ort_value *const *inputs, size_t num_inputs, const char *const *output_names,
                       size_t num_outputs, ort_value **outputs);
    ort_status *(*create_session_options)(ort_session_options **);
    ort_unused unused_11[2];
    ort_status *(*set_execution_mode)(ort_session_options *, int mode);
    ort_unused unused_14[8];
    ort_status *(*set_log_severity)(ort_session_options *, int severity);
    ort_unused unused_23;
    ort_status *(*set_intra_op_threads)(ort_session_options *, int threads);
    ort_status *(*set_inter_op_threads)(ort_session_options *, int threads);
    ort_unused unused_26[4];
    ort_status *(*num_inputs)(const ort_session *, size_t *);
    ort_status *(*num_outputs)(const ort_session *, size_t *);
    ort_unused unused_32;
    ort_status *(*input_type)(const ort_session *, size_t index, ort_type_info **);
    ort_status *(*output_type)(const ort_session *, size_t index, ort_type_info **);
    ort_unused unused_35;
    ort_status *(*input_name)(const ort_session *, size_t index, ort_allocator *, char **);
    ort_status *(*output_name)(const ort_session *, size_t index, ort_allocator *, char **);
    ort_unused unused_38[11];
    ort_status *(*create_tensor)(const ort_memory_info *, void *data, size_t bytes, const int64_t *shape, size_t rank,
                                 int type, ort_value **);
    ort_unused unused_50[5];
    ort_status *(*tensor_info)(const ort_type_info *, const ort_tensor_info **);
    ort_status *(*kind_of_type)(const ort_type_info *, int *kind);
    ort_unused unused_57[3];
    ort_status *(*element_type)(const ort_tensor_info *, int *type);
    ort_status *(*rank)(const ort_tensor_info *, size_t *);
    ort_status *(*dimensions)(const ort_tensor_info *, int64_t *, size_t rank);
    ort_unused unused_63[2];
    ort_status *(*type_of_value)(const ort_value *, ort_tensor_info **);
    ort_unused unused_66[3];
    ort_status *(*create_cpu_memory_info)(int allocator_type, int memory_type, ort_memory_info **);
    ort_unused unused_70[6];
    ort_status *(*allocator_free)(ort_allocator *, void *);
    ort_unused unused_77;
    ort_status *(*default_allocator)(ort_allocator **);
    ort_unused unused_79[13];
    void (*release_env)(ort_env *);
    void (*release_status)(ort_status *);
    void (*release_memory_info)(ort_memory_info *);
    void (*release_session)(ort_session *);
    void (*release_value)(ort_value *);
    ort_unused unused_97;
    void (*release_type_info)(ort_type_info *);
    void (*release_tensor_info)(ort_tensor_info *);
    void (*release_session_options)(ort_session_options *);
    ort_unused unused_101[29];
    ort_status *(*add_config_entry)(ort_session_options *, const char *key, const char *value);
} ort_api;

#define ORT_SLOT(name, number)                                                                                        \
    _Static_assert(offsetof(ort_api, name) == (number) * sizeof(ort_unused), "slot of " #name " in OrtApi")
ORT_SLOT(get_error_message, 2);
ORT_SLOT(create_env_with_logger, 4);
ORT_SLOT(run, 9);
ORT_SLOT(set_execution_mode, 13);
ORT_SLOT(set_log_severity, 22);
ORT_SLOT(set_intra_op_threads, 24);
ORT_SLOT(num_inputs, 30);
ORT_SLOT(input_type, 33);
ORT_SLOT(input_name, 36);
ORT_SLOT(create_tensor, 49);
ORT_SLOT(tensor_info, 55);
ORT_SLOT(element_type, 60);
ORT_SLOT(type_of_value, 65);
ORT_SLOT(create_cpu_memory_info, 69);
ORT_SLOT(allocator_free, 76);
ORT_SLOT(default_allocator, 78);
ORT_SLOT(release_env, 92);
ORT_SLOT(release_session_options, 100);
ORT_SLOT(add_config_entry, 130);

typedef struct {
    const ort_api *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} ort_api_base;

#endif
